"""Command lines of experiments: options, `--quick`, and errors in one line."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
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
    """Run `main` with the options of the command line, and exit with its return value, if any.

    Invalid settings end the script with one line. Output paths are checked before `main` is called.
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
    """Parse a command line into an options dataclass.

    Args:
      kind: the dataclass, with a field `quick` if the script has that mode.
      description: text of --help.
      quick: values that `--quick` sets, unless their flags are given.
      arguments: the command line; default that of this process.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Sizes:
    ...     seeds: int = 100
    ...     quick: bool = False
    >>> options_of(Sizes, quick={"seeds": 2}, arguments=["--quick"])
    Sizes(seeds=2, quick=True)
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
    """Reject options that would do nothing if they differ from their defaults.

    Raises:
      SettingError: for the first of them.
    """
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(options)
    }
    for name in names:
        value = getattr(options, name)
        if value != defaults[name]:
            shown = value if isinstance(value, (bool, int, float, str)) else str(value)
            raise SettingError(name, shown, f"does nothing: {reason}; leave it out")
