"""An Optuna study in a folder, with trials drawn and reported in batches, that continues after a crash.

Each trial has its own sampler seed, made from that of the search and the trial's number. Results of a batch are stored
before any of them is reported to Optuna. A search that was killed therefore continues as if uninterrupted: stored
results are not computed again, and no trial is reported twice.
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
"""Settings that require a new compilation, and that a search may choose."""


class Space(NamedTuple):
    """The search space: hyperparameters with their given values, and choices of static settings."""

    numbers: dict[str, float]
    static: dict[str, dict[str, Any]]  # name -> text -> value; the given value is first

    def distributions(self) -> "dict[str, BaseDistribution]":
        """The space as Optuna distributions; those in FROM_ONE are of 1 − value."""
        of = optuna().distributions
        numbers = {_label(name): of.FloatDistribution(*RANGES[name], log=True) for name in self.numbers}
        return numbers | {name: of.CategoricalDistribution(list(choices)) for name, choices in self.static.items()}

    def given(self) -> dict[str, Any]:
        """The given settings as parameters of the first trial, clipped to the ranges."""
        numbers = {_label(n): float(np.clip(plain(n, x), *RANGES[n])) for n, x in self.numbers.items()}
        return numbers | {name: next(iter(choices)) for name, choices in self.static.items()}

    def trial(self, number: int, params: Mapping[str, Any]) -> Trial:
        """The trial for Optuna's parameters; the first one has the given settings, even outside the ranges."""
        static = {name: choices[params[name]] for name, choices in self.static.items()}
        if number == 0:
            return Trial(dict(self.numbers), static)
        return Trial({name: plain(name, params[_label(name)]) for name in self.numbers}, static)


def _label(name: str) -> str:
    return f"1 - {name}" if name in FROM_ONE else name


def choices_of(texts: Sequence[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Static settings and their choices, from texts such as num_envs=8,32 and hidden=64x64,32.

    The value in the resolved settings comes first, and is added if it is missing.

    Raises:
      SettingError: for an invalid text, or a setting that is not static.

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
        raise SettingError("choose", f"{name}={text}", f"is not a value of {name}") from error


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def optuna() -> Any:
    """Import Optuna on first use.

    Raises:
      SettingError: if it is not installed.
    """
    try:
        package = import_module("optuna")
    except ImportError as error:
        raise SettingError("sampler", "optuna", f"is not installed: {pip_install('tune')}") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def open_study(folder: Path | None, asked: Mapping[str, Any]) -> "Study":
    """The study of a folder (study.db), new or continued; in memory without a folder.

    Args:
      folder: an existing folder.
      asked: everything that the trials depend on.

    Raises:
      SettingError: if the folder holds a search with other settings; it names the first difference.
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
    """Draw trials until there are `count`; the first one is the given settings.

    Trials are drawn in a copy in memory, so that each enters the study with all its parameters or not at all.
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
    return samplers.TPESampler(seed=own, multivariate=True)  # TPE treats running trials as bad ones


def tell(study: "Study", trial: "FrozenTrial", stops: Sequence[int], scores: Sequence[Sequence[float]]) -> None:
    """Report the interquartile means of a trial at its evaluations; it counts as pruned if some are missing."""
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
    """The result of `compute` as JSON, stored in the study under a name and computed only once."""
    if name not in study.user_attrs:
        study.set_user_attr(name, compute())
    return study.user_attrs[name]


def importances(study: "Study", space: Space, step: int) -> dict[str, float]:
    """Importance of each parameter for being in the best quarter of trials after `step`; they sum to 1.

    PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) at the first evaluation, which all trials reach.
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
        warnings.simplefilter("ignore")  # it warns about few trials
        return dict(package.importance.get_param_importances(early, evaluator=evaluator))
