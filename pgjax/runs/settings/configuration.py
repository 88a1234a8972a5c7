"""Where settings come from: a TOML file as the base, flags on top, or the run that is resumed."""

import argparse
import contextlib
import difflib
import io
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro

from pgjax.runs.record.provenance import versions
from pgjax.runs.settings.checks import check_fields
from pgjax.runs.settings.setup import Settings, resolve
from pgjax.runs.settings.tuned import tuned
from pgjax.types import SettingError

OF_THE_START = ("quiet", "resume", "distributed", "coordinator", "processes", "process_id", "join_timeout")
"""Settings that a resumed run is given anew."""

OF_THE_PROCESS = ("config", "out", "tuned", "quick", *OF_THE_START)
"""Settings that say how a process runs, not what it computes: not written beside the results."""

OF_THE_LAYOUT = ("devices", "mesh")
"""Settings that say where it is computed: a run may go on elsewhere, with other bits at most."""

QUICK = {"seeds": 2, "total_steps": 4000, "eval_episodes": 8}
"""What `--quick` puts over the base."""


def from_command_line(arguments: Sequence[str] | None = None, description: str = "") -> Settings:
    """The settings that a command line asks for; `--config FILE` and `--resume DIR` give the base.

    Else a named environment does, if there are tuned settings for it (`pgjax.runs.settings.tuned`). `--quick` makes either small.

    Raises:
      SettingError: for a bad file, or flags that contradict the resumed run.
      SystemExit: for flags that are none, after one line that says so.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--resume", "--environment", "--algorithm"):
        first.add_argument(flag, nargs="?", default="")
    first.add_argument("--no-tuned", dest="tuned", action="store_false")
    first.add_argument("--quick", action="store_true")
    given, _ = first.parse_known_args(arguments)
    if not given.resume:
        quick = QUICK if given.quick else {}
        if given.config:
            return _flags(arguments, replace(read_config(Path(given.config)), **quick), description)
        found = tuned(given.environment, given.algorithm) if given.tuned else {}
        settings = _flags(arguments, settings_from(found | quick), description)
        if found and not settings.quiet:
            print(f"{settings.environment}: tuned settings, {settings.algorithm}; --no-tuned for none", file=sys.stderr)
        return settings
    base = _config_of(Path(given.resume))
    settings = _flags(arguments, base, description)
    for name, value in vars(settings).items():
        if name not in (*OF_THE_START, *OF_THE_LAYOUT) and value != getattr(base, name):
            raise SettingError(name, value, f"cannot change: the resumed run has {getattr(base, name)!r}; leave it out")
    return settings


def read_config(path: Path) -> Settings:
    """Settings from a TOML file: names as in `Settings`; what it leaves out keeps its default.

    A table `[versions]` is passed over, so that a run's own config.toml is a base like any other.

    Raises:
      SettingError: for a file that cannot be read, a name that is no setting, or a value of the wrong type.
    """
    table = _table(path, "config")
    table.pop("versions", None)
    return settings_from(table)


def _config_of(run: Path) -> Settings:
    """A run's own settings; its file ends with the versions, unless a kill has torn it."""
    table = _table(run / "config.toml", "resume")
    if table.pop("versions", None) is None:
        raise SettingError("resume", str(run), "cannot go on: its config.toml is torn; start it again elsewhere")
    return settings_from(table)


def _table(path: Path, field: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingError(field, str(path), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        if name in ("config", "resume", "tuned", "quick"):
            raise SettingError(name, value, "is for the command line only")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise SettingError(name, value, f"is no setting; did you mean {near[0]}?" if near else "is no setting")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    settings = Settings(**values)
    check_fields(settings)
    return settings


def recorded(settings: Settings) -> dict[str, Any]:
    """What of the settings, as resolved, determines the results; those that the method does not have are left out."""
    values = asdict(resolve(settings))
    return {name: v for name, v in values.items() if v is not None and name not in OF_THE_PROCESS}


def config_text(settings: Settings) -> str:
    """The resolved settings as TOML that `read_config` takes, with the versions of what computes.

    >>> print(config_text(Settings(algorithm="ppo", learning_rate=1e-5, hidden=(32,))).splitlines()[5])
    learning_rate = 1e-05
    """
    lines = ["# train.py --config THIS_FILE runs it again"]
    lines += [f"{name} = {_toml(value)}" for name, value in recorded(settings).items()]
    lines += ["", "[versions]"]
    lines += [f"{name} = {_toml(value)}" for name, value in versions().items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(x) for x in value)}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # booleans, whole numbers and text are the same in both


def _flags(arguments: Sequence[str] | None, base: Settings, description: str) -> Settings:
    """Flags over the base. What tyro draws as a box becomes one line."""
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            return tyro.cli(Settings, args=arguments, default=base, prog="train.py", description=description)
    except SystemExit as end:
        if end.code:
            print(f"error: {_one_line(drawn.getvalue())} (--help lists all flags)", file=sys.stderr)
        raise


def _one_line(box: str) -> str:
    """What a box of tyro's says: the lines between its title and the next rule, and the flag it suggests."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    parts = [list(part) for rule, part in groupby(lines, lambda line: set(line) <= set("─-╰╯")) if not rule]
    near = [word for word in box.partition("Perhaps you meant")[2].split() if word.startswith("--")]
    return " ".join(parts[0]).rstrip(".") + (f"; did you mean {near[0]}?" if near else "")
