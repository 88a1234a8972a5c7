"""Settings as a TOML file: read from one, and written beside a run's results as resolved."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pgjax.runs.record.provenance import commit, versions
from pgjax.runs.record.texts import read_toml
from pgjax.runs.settings import idle
from pgjax.runs.settings.build import OF_THE_AGENT, recipe_of, resolve
from pgjax.runs.settings.checks import check_fields
from pgjax.runs.settings.environment import environment_of
from pgjax.runs.settings.flags import Settings
from pgjax.runs.show.script import as_typed
from pgjax.types import Environment, SettingError

OF_THE_START = ("quiet", "resume", "distributed", "coordinator", "processes", "process_id", "join_timeout")
"""Settings that a resumed run is given anew."""

OF_THE_PROCESS = ("config", "out", "tuned", "quick", *OF_THE_START)
"""Settings that say how a process runs, not what it computes: not written beside the results."""

FORMER_NAMES = {"lambda_": "gae_lambda"}
"""Settings under the names that earlier versions wrote: a file may still have them."""

_OF_A_COMMAND = ("config", "resume", "tuned", "quick")

OF_THE_LAYOUT = ("devices", "mesh", "engine", "imports")
"""Settings that say where and how it is computed: a run may go on elsewhere, with other bits at most.

The file of a module of somebody's own may lie elsewhere then, too.
"""


def read_config(path: Path) -> Settings:
    """Settings from a TOML file: names as in `Settings`; what it leaves out keeps its default.

    A run's own config.toml, which has a table `[versions]`, is a base like any other, also one of an earlier version.

    Raises:
      SettingError: for a file that cannot be read, a name that is no setting, or a value of the wrong type.
    """
    table = _table(path, "config")
    return settings_from(table) if table.pop("versions", None) is None else settings_of_record(table)


def read_run_table(run: Path, field: str) -> dict[str, Any]:
    """A run's config.toml as it stands, of any version: its settings are of the right types, `versions` are texts.

    Args:
      run: the directory.
      field: the setting that named it.

    Raises:
      SettingError: for a file that cannot be read, or holds something else.
    """
    table = _table(run / "config.toml", field)
    made_with = table.get("versions", {})
    of_versions = isinstance(made_with, dict) and all(isinstance(text, str) for text in made_with.values())
    if "environment" not in table or not of_versions:
        raise SettingError(field, str(run), "has a config.toml that is not a run's")
    names = {one.name for one in fields(Settings)} - set(_OF_A_COMMAND)
    known = {name: value for name, value in table.items() if name in names}
    try:
        settings_from(known)
    except SettingError as error:
        raise SettingError(field, str(run), f"has a config.toml that cannot be: {error}") from error
    return table


def read_run_config(run: Path) -> Settings:
    """A run's own settings; its file ends with the versions, unless a kill has torn it."""
    table = _table(run / "config.toml", "resume")
    if table.pop("versions", None) is None:
        raise SettingError("resume", str(run), "cannot go on: its config.toml is torn; start it again elsewhere")
    return settings_of_record(table)


def _table(path: Path, field: str) -> dict[str, Any]:
    try:
        return {FORMER_NAMES.get(name, name): value for name, value in read_toml(path).items()}
    except OSError as error:
        raise SettingError(field, str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(field, str(path), f"is not TOML: {error}") from error


def settings_from(table: Mapping[str, Any]) -> Settings:
    """Settings by name.

    Raises:
      SettingError: naming the first entry that is no setting, with the closest one, or has the wrong type.

    >>> settings_from({"algoritm": "ppo"})
    Traceback (most recent call last):
    pgjax.types.SettingError: algoritm: 'ppo' is no setting; did you mean algorithm?
    >>> settings_from({"seeds": 2.5})
    Traceback (most recent call last):
    pgjax.types.SettingError: seeds: 2.5 must be a whole number
    """
    names = [field.name for field in fields(Settings)]
    for name, value in table.items():
        if name in _OF_A_COMMAND:
            raise SettingError(name, value, "is for the command line only")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise SettingError(name, value, f"is no setting; did you mean {near[0]}?" if near else "is no setting")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    settings = Settings(**values)
    check_fields(settings)
    return settings


def settings_of_record(table: Mapping[str, Any], environment: Environment | None = None) -> Settings:
    """Settings that a run has written; entries that do nothing, which earlier versions wrote too, are left out.

    What depends on the environment is left in where that is not given.

    >>> settings_of_record({"algorithm": "reinforce", "num_steps": 128}).num_steps
    """
    left_to_the_agent = [name for name, default in OF_THE_AGENT.items() if table.get(name) == default]
    settings = settings_from({name: value for name, value in table.items() if name not in left_to_the_agent})
    return idle.without(settings, idle.Situation(settings, recipe_of(settings), environment), idle.given(settings))


def recorded(settings: Settings) -> dict[str, Any]:
    """What of the settings, as resolved, determines the results; what the method does not have, or use, is left out."""
    resolved = resolve(settings)
    situation = idle.Situation(resolved, recipe_of(settings), environment_of(settings))
    values = {name: value for name, value in asdict(resolved).items() if value is not None}
    return {n: value for n, value in values.items() if n not in OF_THE_PROCESS and not idle.why_idle(situation, n)}


def config_text(settings: Settings) -> str:
    """The resolved settings as TOML that `read_config` takes, with the commit and the versions of what computes.

    >>> print("\\n".join(config_text(Settings(algorithm="ppo", learning_rate=1e-5)).splitlines()[:4]))
    # train.py --config THIS_FILE runs it again
    environment = "CartPole-v1"
    algorithm = "ppo"
    seeds = 8
    >>> "learning_rate = 1e-05" in config_text(Settings(algorithm="ppo", learning_rate=1e-5)).splitlines()
    True
    """
    lines = [f"# {as_typed('train')} --config THIS_FILE runs it again"]
    lines += [f"{name} = {as_toml(value)}" for name, value in recorded(settings).items()]
    lines += ["", "[versions]"]
    lines += [f"{name} = {as_toml(value)}" for name, value in ({"commit": commit()} | versions()).items() if value]
    return "\n".join(lines) + "\n"


def as_toml(value: Any) -> str:
    """A number, a bool, text, or a list of these.

    >>> as_toml((1, 2.0, True, "a"))
    '[1, 2.0, true, "a"]'
    """
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(as_toml(x) for x in value)}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # booleans, whole numbers and text are the same in both
