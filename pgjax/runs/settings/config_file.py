"""Settings in TOML files: reading them, and writing the resolved settings of a run."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pgjax.runs.record.provenance import commit, versions
from pgjax.runs.record.texts import read_toml
from pgjax.runs.settings import idle
from pgjax.runs.settings.build import AGENT_SETTINGS, recipe_of, resolve
from pgjax.runs.settings.checks import check_fields
from pgjax.runs.settings.environment import environment_of
from pgjax.runs.settings.flags import Settings
from pgjax.runs.show.script import as_typed
from pgjax.types import Environment, SettingError

RESTART_SETTINGS = ("quiet", "resume", "distributed", "coordinator", "processes", "process_id", "join_timeout")
"""Settings that a resumed run takes from its command line."""

PROCESS_SETTINGS = ("config", "out", "tuned", "quick", *RESTART_SETTINGS)
"""Settings that do not affect the results; config.toml of a run leaves them out."""

FORMER_NAMES = {"lambda_": "gae_lambda"}
"""Names of settings in files of earlier versions -> names today."""

_COMMAND_LINE_ONLY = ("config", "resume", "tuned", "quick")

LAYOUT_SETTINGS = ("devices", "mesh", "engine", "imports")
"""Settings of devices, engine and imported module. A resumed run may change them; only rounding may differ then."""


def read_config(path: Path) -> Settings:
    """Read settings from a TOML file, such as the config.toml of a run of any version; others keep their defaults."""
    table = _table(path, "config")
    return settings_from(table) if table.pop("versions", None) is None else settings_of_record(table)


def read_run_table(run: Path, field: str) -> dict[str, Any]:
    """The config.toml of a run directory as a table, of any version, with the types of its entries checked."""
    table = _table(run / "config.toml", field)
    made_with = table.get("versions", {})
    of_versions = isinstance(made_with, dict) and all(isinstance(text, str) for text in made_with.values())
    if "environment" not in table or not of_versions:
        raise SettingError(field, str(run), "has a config.toml that no run has written")
    names = {one.name for one in fields(Settings)} - set(_COMMAND_LINE_ONLY)
    known = {name: value for name, value in table.items() if name in names}
    try:
        settings_from(known)
    except SettingError as error:
        raise SettingError(field, str(run), f"has an invalid config.toml: {error}") from error
    return table


def read_run_config(run: Path) -> Settings:
    """The settings of a run. A file without its last table, [versions], is incomplete and is rejected."""
    table = _table(run / "config.toml", "resume")
    if table.pop("versions", None) is None:
        raise SettingError("resume", str(run), "cannot be resumed: its config.toml is incomplete; start a new run")
    return settings_of_record(table)


def _table(path: Path, field: str) -> dict[str, Any]:
    try:
        return {FORMER_NAMES.get(name, name): value for name, value in read_toml(path).items()}
    except OSError as error:
        raise SettingError(field, str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(field, str(path), f"is not TOML: {error}") from error


def settings_from(table: Mapping[str, Any]) -> Settings:
    """Settings from a table; raises SettingError for the first unknown name or value of the wrong type."""
    names = [field.name for field in fields(Settings)]
    for name, value in table.items():
        if name in _COMMAND_LINE_ONLY:
            raise SettingError(name, value, "is for the command line only")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingError(name, value, f"is not a setting{hint}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    settings = Settings(**values)
    check_fields(settings)
    return settings


def settings_of_record(table: Mapping[str, Any], environment: Environment | None = None) -> Settings:
    """Settings from the record of a run; entries that do nothing, which earlier versions wrote, are dropped.

    Entries whose effect depends on the environment are kept if `environment` is None.
    """
    left_to_the_agent = [name for name, default in AGENT_SETTINGS.items() if table.get(name) == default]
    settings = settings_from({name: value for name, value in table.items() if name not in left_to_the_agent})
    return idle.without(settings, idle.Situation(settings, recipe_of(settings), environment), idle.given(settings))


def recorded(settings: Settings) -> dict[str, Any]:
    """The resolved settings that affect the results, by name; settings that the method does not use are left out."""
    resolved = resolve(settings)
    situation = idle.Situation(resolved, recipe_of(settings), environment_of(settings))
    values = {name: value for name, value in asdict(resolved).items() if value is not None}
    return {n: value for n, value in values.items() if n not in PROCESS_SETTINGS and not idle.why_idle(situation, n)}


def config_text(settings: Settings) -> str:
    """The resolved settings as TOML for `read_config`, with the commit and the package versions."""
    lines = [f"# {as_typed('train')} --config THIS_FILE runs it again"]
    lines += [f"{name} = {as_toml(value)}" for name, value in recorded(settings).items()]
    lines += ["", "[versions]"]
    lines += [f"{name} = {as_toml(value)}" for name, value in ({"commit": commit()} | versions()).items() if value]
    return "\n".join(lines) + "\n"


def as_toml(value: Any) -> str:
    """A number, bool, string or list of these as TOML."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(as_toml(x) for x in value)}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # bools, integers and strings are written alike in JSON and TOML
