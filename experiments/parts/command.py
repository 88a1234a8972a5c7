"""How an experiment is started from a command line: options, `--quick`, refusals in one line."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from parts import places
from pgjax.runs.settings.command_line import flags_in
from pgjax.runs.show.help import HELP, print_help
from pgjax.runs.show.script import as_typed, one_line
from pgjax.types import SettingError

Options = TypeVar("Options")


def as_script(
    main: Callable[[Any], int | None],
    kind: type,
    description: str | None,
    quick: Mapping[str, Any] | None = None,
    check: Callable[[Any], None] = places.check,
) -> None:
    """Call `main` with the options of this process's command line, and exit with what it returns, if anything.

    A setting that cannot work ends it with one line; a place that cannot be written does before `main` is called.
    """
    with one_line():
        options = options_of(kind, description, quick)
        check(options)
        sys.exit(main(options))


def options_of(
    kind: type[Options],
    description: str | None = None,
    quick: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
) -> Options:
    """The options, a dataclass, of a command line.

    Args:
      kind: the dataclass; with a field `quick` where there is such a mode.
      description: of the script, for --help.
      quick: what `--quick` puts in place of defaults; flags that are named stay as they are.
      arguments: the command line; default this process's.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Sizes:
    ...     seeds: int = 100
    ...     steps: int = 1000
    ...     quick: bool = False
    >>> options_of(Sizes, quick={"seeds": 2, "steps": 10}, arguments=["--quick", "--seeds", "7"])
    Sizes(seeds=7, steps=10, quick=True)
    """
    given = sys.argv[1:] if arguments is None else arguments
    prog = as_typed(Path(sys.argv[0]).stem)
    if set(given) & set(HELP):
        print_help(kind, description or "", prog=prog)
        raise SystemExit
    options: Any = tyro.cli(kind, args=arguments, prog=prog, description=description)
    if not getattr(options, "quick", False):
        return options
    named = flags_in(given)
    return replace(options, **{name: value for name, value in (quick or {}).items() if name not in named})


def refuse(options: Any, names: Sequence[str], reason: str) -> None:
    """Refuse those of these options that differ from their defaults, where they would do nothing.

    Raises:
      SettingError: naming the first.
    """
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        value = getattr(options, name)
        if value != defaults[name]:
            shown = value if isinstance(value, (bool, int, float, str)) else str(value)
            raise SettingError(name, shown, f"does nothing: {reason}; leave it out")
