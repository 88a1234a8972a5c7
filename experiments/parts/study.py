"""A study of Optuna in a folder: trials are asked for and told in batches, and a killed search goes on.

Each trial's sampler has a seed of its own, made of the search's and the trial's number, and what a batch gave is
stored at once before any of it is told. So a search that was killed anywhere asks, trains and tells as one that was
not: what was stored is not trained again, and no trial is told twice.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from parts.trials import Trial
from pgjax.config import Config
from pgjax.release import pip_install
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import FROM_ONE, RANGES, plain
from pgjax.runs.show.comparison import interquartile_mean
from pgjax.types import SettingError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random")

STATIC = {field.name for field in fields(Config)} - {"rollout", "critic", "engine", "diagnostics"} | {
    *("credit", "baseline", "standardise", "optimizer", "normalise_observations"),
    *("policy", "network", "hidden", "shared", "memory", "separate_memory", "layer_norm"),
}
"""Settings that a program is compiled for, and that a search may choose."""


class Space(NamedTuple):
    """Where to search: hyperparameters with their values in the settings given, and static settings' choices."""

    numbers: dict[str, float]
    static: dict[str, dict[str, Any]]  # name -> text -> value; the first is that of the settings given

    def distributions(self) -> "dict[str, BaseDistribution]":
        """As Optuna knows it: the distance from 1 of what FROM_ONE lists."""
        of = optuna().distributions
        numbers = {_label(name): of.FloatDistribution(*RANGES[name], log=True) for name in self.numbers}
        return numbers | {name: of.CategoricalDistribution(list(choices)) for name, choices in self.static.items()}

    def given(self) -> dict[str, Any]:
        """The settings given as the first trial's parameters; a number outside its range stands at the range's end."""
        numbers = {_label(n): float(np.clip(plain(n, x), *RANGES[n])) for n, x in self.numbers.items()}
        return numbers | {name: next(iter(choices)) for name, choices in self.static.items()}

    def trial(self, number: int, params: Mapping[str, Any]) -> Trial:
        """What is trained for Optuna's trial; for the first one the settings given, whatever their range."""
        static = {name: choices[params[name]] for name, choices in self.static.items()}
        if number == 0:
            return Trial(dict(self.numbers), static)
        return Trial({name: plain(name, params[_label(name)]) for name in self.numbers}, static)


def _label(name: str) -> str:
    return f"1 - {name}" if name in FROM_ONE else name


def choices_of(texts: Sequence[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Static settings to choose among, from texts such as num_envs=8,32 and hidden=64x64,32.

    The value in the settings, which are resolved, comes first, and is added where it is missing.

    Raises:
      SettingError: for what is no such text, or no setting that a program is compiled for.

    >>> choices_of(["hidden=64x64,32"], Settings())
    {'hidden': {'64x64': (64, 64), '32': (32,)}}
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name not in STATIC or not values:
            raise SettingError("choose", text, f"must be NAME=VALUE,VALUE,… of one of {', '.join(sorted(STATIC))}")
        listed = {one: _parsed(name, one) for one in values.split(",")}
        now = getattr(settings, name)
        first = {one: value for one, value in listed.items() if value == now} or {_text(now): now}
        found[name] = first | listed
    return found


def _parsed(name: str, text: str) -> Any:
    hint = get_type_hints(Settings)[name]
    kinds = get_args(hint) if get_origin(hint) not in (None, tuple) else (hint,)
    try:
        if any(get_origin(kind) is tuple for kind in kinds):
            return tuple(int(width) for width in text.split("x"))
        if bool in kinds:
            return {"true": True, "false": False}[text]
        return int(text) if int in kinds else text
    except (ValueError, KeyError) as error:
        raise SettingError("choose", f"{name}={text}", f"is no value of {name}") from error


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def optuna() -> Any:
    """The package, imported where it is first used.

    Raises:
      SettingError: if it is not there.
    """
    try:
        package = import_module("optuna")
    except ImportError as error:
        raise SettingError("sampler", "optuna", f"is not installed: {pip_install('tune')}") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def open_study(folder: Path | None, asked: Mapping[str, Any]) -> "Study":
    """The study of a folder (study.db), new or begun before; in memory without a folder.

    Args:
      folder: where; it must exist.
      asked: all that the trials depend on: a search with another goes elsewhere.

    Raises:
      SettingError: if the folder holds a search for something else, naming the first difference.
    """
    storage = None if folder is None else f"sqlite:///{(folder / 'study.db').absolute()}"
    study = optuna().create_study(study_name="pgjax", storage=storage, direction="maximize", load_if_exists=True)
    now = json.loads(json.dumps(asked))
    then = study.user_attrs.get("asked")
    if then is None:
        study.set_user_attr("asked", now)
    elif then != now:
        name = next(name for name in sorted({*then, *now}) if then.get(name) != now.get(name))
        reason = f"holds a search with {name} {then.get(name)!r}, not {now.get(name)!r}; name another folder"
        raise SettingError("folder", str(folder), reason)
    return study


def ask(study: "Study", space: Space, sampler: str, seed: int, count: int) -> None:
    """Ask until there are so many trials; the first one is the settings given.

    What is asked of a copy in memory enters the study with all its parameters, or not at all.
    """
    copy = optuna().create_study(direction="maximize")
    copy.add_trials(study.get_trials())
    for number in range(len(copy.get_trials()), count):
        if number == 0:
            copy.enqueue_trial(space.given())
        copy.sampler = _sampler(sampler, seed, number)
        copy.ask(fixed_distributions=space.distributions())
        study.add_trial(copy.get_trials()[number])


def _sampler(name: str, seed: int, number: int) -> "BaseSampler":
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    samplers = optuna().samplers
    if name == "random":
        return samplers.RandomSampler(seed=own)
    return samplers.TPESampler(seed=own, multivariate=True)  # counts trials that are still running as bad ones


def tell(study: "Study", trial: "FrozenTrial", stops: Sequence[int], scores: Sequence[Sequence[float]]) -> None:
    """Tell what a trial gave: interquartile means over seeds at its stops; it is pruned if that is not all of them."""
    package = optuna()
    handle = package.trial.Trial(study, trial._trial_id)
    values = [float(interquartile_mean(returns)) for returns in scores]
    handle.set_user_attr("returns", [float(x) for x in scores[-1]])
    for step, value in zip(stops, values, strict=False):
        if step not in trial.intermediate_values:
            handle.report(value, step)
    pruned = len(values) < len(stops)
    study.tell(handle, None if pruned else values[-1], state=package.trial.TrialState.PRUNED if pruned else None)


def remembered(study: "Study", name: str, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, as JSON knows it, kept in the study under a name; what is there is not computed again."""
    if name not in study.user_attrs:
        study.set_user_attr(name, compute())
    return study.user_attrs[name]


def importances(study: "Study", space: Space, step: int) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best quarter after `step`; they sum to 1.

    PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) on all trials at the first stop, which all reach.
    Empty for fewer than eight trials.
    """
    package = optuna()
    finished = [trial for trial in study.get_trials(deepcopy=False) if step in trial.intermediate_values]
    known = [trial for trial in finished if np.isfinite(trial.intermediate_values[step])]
    if len(known) < 8:
        return {}
    early = package.create_study(direction="maximize")
    for trial in known:
        value = trial.intermediate_values[step]
        of = space.distributions()
        early.add_trial(package.create_trial(params=trial.params, distributions=of, value=value))
    evaluator = package.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are few trials is no news
        return dict(package.importance.get_param_importances(early, evaluator=evaluator))
