"""The command line of train.py: flags that override a TOML file, tuned settings, or the settings of a resumed run."""

import argparse
import contextlib
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro

from pgjax.runs.settings import idle
from pgjax.runs.settings.build import recipe_of
from pgjax.runs.settings.checks import check_values
from pgjax.runs.settings.config_file import (
    LAYOUT_SETTINGS,
    RESTART_SETTINGS,
    read_config,
    read_run_config,
    settings_from,
)
from pgjax.runs.settings.environment import import_module, located
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.groups import COMMON, GROUPS
from pgjax.runs.settings.tuned import tuned
from pgjax.runs.show.help import HELP, print_groups
from pgjax.runs.show.listing import environments_by_family
from pgjax.runs.show.script import as_typed
from pgjax.types import SettingError

QUICK = {"seeds": 2, "total_steps": 4000, "eval_episodes": 8}
"""Settings of `--quick`."""

LIST = "--list-environments"
"""The flag that prints the names of all environments and exits."""

HELP_ALL = "--help-all"
"""The flag that prints the help of all flags; --help prints that of the common ones."""

_BASE_FLAGS = {"config": "", "tuned": True, "quick": False}
"""Flags that choose which settings the others override, with the values to which they are reset after parsing."""


def from_command_line(
    arguments: Sequence[str] | None = None, description: str = "", without: Mapping[str, str] | None = None
) -> Settings:
    """Parse a command line into settings.

    Flags override the run of `--resume DIR`, else the file of `--config FILE`, else the tuned settings of the named
    environment (`pgjax.runs.settings.tuned`), else the defaults. `--quick` reduces the sizes of the last three. Tuned
    settings that would do nothing with the given flags are dropped. `description` is the text above the help; `without`
    names flags that do nothing in the script, with the reason.

    >>> from_command_line(["--algorithm", "ppo", "--no-tuned"]).algorithm
    'ppo'
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if LIST in arguments:
        others = [word for word in arguments if word != LIST]
        import_module(_flags(others, Settings(), description).imports)
        print(environments_by_family())
        raise SystemExit
    named = [name for name in flags_in(arguments) if name in {field.name for field in fields(Settings)}]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--resume", "--environment", "--algorithm"):
        first.add_argument(flag, nargs="?", default="")
    first.add_argument("--no-tuned", dest="tuned", action="store_false")
    first.add_argument("--quick", action="store_true")
    given, _ = first.parse_known_args(arguments)
    if given.resume:
        settings = _resumed(arguments, read_run_config(Path(given.resume)), description)
    elif given.config:
        quick = QUICK if given.quick else {}
        settings = _flags(arguments, replace(read_config(Path(given.config)), **quick), description)
        settings = _without_idle(settings, set(quick) - set(named))
        if "tuned" in named:
            raise SettingError("tuned", settings.tuned, "does nothing: --config is the base; leave it out")
    else:
        settings = _on_tuned(arguments, given, named, description)
    if "seeds" in named and "seed_list" in named:
        raise SettingError("seeds", settings.seeds, "does nothing: seed_list names the seeds; leave it out")
    for name in named:
        if name in (without or {}):
            raise SettingError(name, getattr(settings, name), f"does nothing: {(without or {})[name]}; leave it out")
    _refuse_idle(settings, [name for name in named if name not in _BASE_FLAGS])
    return replace(settings, imports=located(settings.imports), **_BASE_FLAGS)


def flags_in(arguments: Sequence[str]) -> list[str]:
    """Names of the flags in a command line, with underscores and without "no_"."""
    words = [word[2:].partition("=")[0].replace("-", "_") for word in arguments if word[:2] == "--" and word != "--"]
    return [word.removeprefix("no_") for word in words]


def _on_tuned(arguments: Sequence[str], given: argparse.Namespace, named: Sequence[str], description: str) -> Settings:
    found = tuned(given.environment, given.algorithm) if given.tuned else {}
    base = found | (QUICK if given.quick else {})
    settings = _flags(arguments, settings_from(base), description)
    if found and not settings.quiet:
        print(
            f"{settings.environment}: using tuned settings of {settings.algorithm} (--no-tuned for defaults)",
            file=sys.stderr,
        )
    return _without_idle(settings, set(base) - set(named))


def _without_idle(settings: Settings, names: Collection[str]) -> Settings:
    """The settings, with those of these names that do nothing reset to their defaults."""
    return idle.without(settings, idle.Situation(settings, recipe_of(settings)), names) if names else settings


def _resumed(arguments: Sequence[str], base: Settings, description: str) -> Settings:
    settings = _flags(arguments, base, description)
    for name, value in vars(settings).items():
        if name == "total_steps" and value > base.total_steps:
            continue
        if name not in (*RESTART_SETTINGS, *LAYOUT_SETTINGS) and value != getattr(base, name):
            raise SettingError(name, value, f"cannot change: the resumed run has {getattr(base, name)!r}; leave it out")
    return settings


def _refuse_idle(settings: Settings, named: Sequence[str]) -> None:
    """Reject named flags that do nothing, even at their default values. The environment is not built for this."""
    if set(named) & set(idle.RULES):
        check_values(settings)
        idle.refuse(idle.Situation(settings, recipe_of(settings)), named)


def _flags(arguments: Sequence[str], base: Settings, description: str) -> Settings:
    """Parse flags on top of a base, or print the help. An error box of tyro is printed as one line."""
    asked = [word for word in arguments if word in (*HELP, HELP_ALL)]
    if asked:
        show_flags(base, description, whole=HELP_ALL in asked)
        raise SystemExit
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            found = tyro.cli(Settings, args=arguments, default=base, prog=as_typed("train"), description=description)
            ranges = _on_top(base.randomise, found.randomise[len(base.randomise) :])
            return replace(found, randomise=ranges)
    except SystemExit as end:
        if end.code:
            print(f"error: {_one_line(drawn.getvalue())} (--help-all lists all flags)", file=sys.stderr)
        raise


def show_flags(
    base: Settings,
    description: str,
    *,
    prog: str | None = None,
    whole: bool = False,
    first: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> None:
    """Print the help of the flags, with the values of `base` as defaults.

    `whole` shows all flags instead of the common ones. `first` has groups of the script's own flags, name -> an
    instance of a dataclass. `without` names flags to leave out.
    """
    names = {field.name for field in fields(Settings)}
    working = names - set(without)
    shown = working if whole else working & COMMON
    groups = {name: kind(**{f.name: getattr(base, f.name) for f in fields(kind)}) for name, kind in GROUPS.items()}
    print_groups({**(first or {}), **groups}, names - shown, description, prog or as_typed("train"))
    if not whole:
        print(f"These are the {len(shown)} most used of {len(working)} flags; {HELP_ALL} shows all.")


def _on_top(base: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Merge ranges NAME=LOW:HIGH: a given range replaces that of the base with the same name."""
    by_name = {text.partition("=")[0]: text for text in given}
    kept = [by_name.get(text.partition("=")[0], text) for text in base]
    return (*kept, *(text for text in given if text not in kept))


def _one_line(box: str) -> str:
    """The message in an error box of tyro as one line, with the flag that it suggests."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    parts = [list(part) for rule, part in groupby(lines, lambda line: set(line) <= set("─-╰╯")) if not rule]
    near = [word for word in box.partition("Perhaps you meant")[2].split() if word.startswith("--")]
    return " ".join(parts[0]).rstrip(".") + (f"; did you mean {near[0]}?" if near else "")
