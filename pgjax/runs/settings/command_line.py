"""The command line of train.py: flags on top of a TOML file, of the settings tuned for an environment, or of a run."""

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
from pgjax.runs.settings.config_file import OF_THE_LAYOUT, OF_THE_START, read_config, read_run_config, settings_from
from pgjax.runs.settings.environment import import_module, located
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.groups import COMMON, GROUPS
from pgjax.runs.settings.tuned import tuned
from pgjax.runs.show.help import HELP, print_groups
from pgjax.runs.show.listing import environments_by_family
from pgjax.runs.show.script import as_typed
from pgjax.types import SettingError

QUICK = {"seeds": 2, "total_steps": 4000, "eval_episodes": 8}
"""What `--quick` puts over the base."""

LIST = "--list-environments"
"""The flag that prints what `--environment` can be, and nothing more."""

HELP_ALL = "--help-all"
"""The flag that prints all flags; --help prints the common ones."""

_OF_THE_BASE = {"config": "", "tuned": True, "quick": False}
"""Flags that choose the base, with the values that stand in the settings afterwards."""


def from_command_line(
    arguments: Sequence[str] | None = None, description: str = "", without: Mapping[str, str] | None = None
) -> Settings:
    """The settings that a command line asks for; `--config FILE` and `--resume DIR` give the base.

    Else a named environment does, if there are tuned settings for it (`pgjax.runs.settings.tuned`). `--quick` makes
    either small. Tuned settings that do nothing under the flags are left out.

    Args:
      arguments: the command line; default this process's.
      description: of the script, for --help.
      without: flags that do nothing in the script, with the reason.

    Raises:
      SettingError: for a bad file, flags that contradict the resumed run, flags that would do nothing.
      SystemExit: for flags that are none, after one line that says so; for `--list-environments` and
        `--help`, after those.

    >>> from_command_line(["--algorithm", "ppo", "--no-tuned"]).algorithm
    'ppo'
    >>> from_command_line(["--shuffle", "environments"])
    Traceback (most recent call last):
    pgjax.types.SettingError: shuffle: 'environments' does nothing: there is one minibatch; leave it out
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
    _refuse_idle(settings, [name for name in named if name not in _OF_THE_BASE])
    return replace(settings, imports=located(settings.imports), **_OF_THE_BASE)


def flags_in(arguments: Sequence[str]) -> list[str]:
    """The names of the flags in a command line, as Python writes them.

    >>> flags_in(["run", "--num-envs=3", "--no-tuned", "--lr", "-1"])
    ['num_envs', 'tuned', 'lr']
    """
    words = [word[2:].partition("=")[0].replace("-", "_") for word in arguments if word[:2] == "--" and word != "--"]
    return [word.removeprefix("no_") for word in words]


def _on_tuned(arguments: Sequence[str], given: argparse.Namespace, named: Sequence[str], description: str) -> Settings:
    found = tuned(given.environment, given.algorithm) if given.tuned else {}
    base = found | (QUICK if given.quick else {})
    settings = _flags(arguments, settings_from(base), description)
    if found and not settings.quiet:
        print(f"{settings.environment}: tuned settings, {settings.algorithm}; --no-tuned for none", file=sys.stderr)
    return _without_idle(settings, set(base) - set(named))


def _without_idle(settings: Settings, names: Collection[str]) -> Settings:
    """The settings without those of the base that do nothing under the flags."""
    return idle.without(settings, idle.Situation(settings, recipe_of(settings)), names) if names else settings


def _resumed(arguments: Sequence[str], base: Settings, description: str) -> Settings:
    settings = _flags(arguments, base, description)
    for name, value in vars(settings).items():
        if name == "total_steps" and value > base.total_steps:
            continue
        if name not in (*OF_THE_START, *OF_THE_LAYOUT) and value != getattr(base, name):
            raise SettingError(name, value, f"cannot change: the resumed run has {getattr(base, name)!r}; leave it out")
    return settings


def _refuse_idle(settings: Settings, named: Sequence[str]) -> None:
    """Refuse flags that do nothing, those at their default values too; the environment is not made here."""
    if set(named) & set(idle.RULES):
        check_values(settings)
        idle.refuse(idle.Situation(settings, recipe_of(settings)), named)


def _flags(arguments: Sequence[str], base: Settings, description: str) -> Settings:
    """Flags over the base; help, where it is asked for. What tyro draws as a box becomes one line."""
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
    """Print the flags in groups, with the base's values as defaults: the common ones, or all.

    Args:
      base: settings.
      description: of the script.
      prog: its name; default that of train.py.
      whole: show all flags.
      first: groups of the script's own flags: what each is called, and an instance of a dataclass.
      without: flags that do nothing in the script.
    """
    names = {field.name for field in fields(Settings)}
    working = names - set(without)
    shown = working if whole else working & COMMON
    groups = {name: kind(**{f.name: getattr(base, f.name) for f in fields(kind)}) for name, kind in GROUPS.items()}
    print_groups({**(first or {}), **groups}, names - shown, description, prog or as_typed("train"))
    if not whole:
        print(f"The {len(shown)} common flags of {len(working)}; {HELP_ALL} shows all.")


def _on_top(base: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Ranges NAME=LOW:HIGH, those given in place of the base's of the same name.

    >>> _on_top(["length=0.3:1.2", "gravity=8:11"], ["masspole=0.1:0.2", "length=0.3:1.3"])
    ('length=0.3:1.3', 'gravity=8:11', 'masspole=0.1:0.2')
    """
    by_name = {text.partition("=")[0]: text for text in given}
    kept = [by_name.get(text.partition("=")[0], text) for text in base]
    return (*kept, *(text for text in given if text not in kept))


def _one_line(box: str) -> str:
    """What a box of tyro's says: the lines between its title and the next rule, and the flag it suggests."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    parts = [list(part) for rule, part in groupby(lines, lambda line: set(line) <= set("─-╰╯")) if not rule]
    near = [word for word in box.partition("Perhaps you meant")[2].split() if word.startswith("--")]
    return " ".join(parts[0]).rstrip(".") + (f"; did you mean {near[0]}?" if near else "")
