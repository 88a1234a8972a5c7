"""What `--help` prints: flags in boxes, one for each group, texts without the line breaks of their source."""

import ast
import contextlib
import inspect
import shutil
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

HELP = ("-h", "--help")
"""Flags that ask for help."""


def print_help(kind: type, description: str, prog: str | None = None) -> None:
    """Print the help of a command line whose flags are the fields of a dataclass."""
    _print(plain(kind), description, prog)


def print_groups(groups: Mapping[str, Any], hidden: Collection[str], description: str, prog: str) -> None:
    """Print the help of flags that are the fields of several dataclasses, whose values are the defaults.

    Args:
      groups: what each group is called, and an instance of its dataclass; its docstring stands above the flags.
      hidden: names of fields that are left out, and so is a group of which nothing is left.
      description: stands above all.
      prog: the name of the program.
    """
    nested = []
    for name, values in groups.items():
        of_group = type(values)
        if {one.name for one in fields(of_group)} - set(hidden):
            shown = plain(of_group, hidden)
            default = shown(**{one.name: getattr(values, one.name) for one in fields(of_group)})
            nested.append((name, Annotated[shown, tyro.conf.OmitArgPrefixes], field(default=default)))
    _print(make_dataclass("Flags", nested, frozen=True), description, prog)


def _print(flags: Any, description: str, prog: str | None) -> None:
    print(paragraphs(description), end="\n\n")  # tyro would join its lines
    with contextlib.suppress(SystemExit):  # which is how tyro ends
        tyro.cli(flags, args=["--help"], prog=prog, description="")


def plain(kind: type, hidden: Collection[str] = ()) -> Any:
    """A dataclass of the same fields, each text on one line, nothing said of empty defaults.

    Args:
      kind: a dataclass.
      hidden: names of fields whose flags are left out of the help.
    """
    hints = get_type_hints(kind, include_extras=True)
    written = texts(kind)
    flags = []
    for one in fields(kind):
        hint = Annotated[hints[one.name], tyro.conf.Suppress] if one.name in hidden else hints[one.name]
        if one.name in written:
            hint = Annotated[hint, tyro.conf.arg(help=written[one.name])]
        if one.default in ("", ()):
            hint = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
        value: dict[str, Any] = {"default": one.default, "default_factory": one.default_factory}
        flags.append((one.name, hint, field(**value)))
    return make_dataclass(kind.__name__, flags, frozen=True, namespace={"__doc__": inspect.getdoc(kind)})


def texts(kind: type) -> dict[str, str]:
    """The strings below the fields of a dataclass in its source, each on one line.

    >>> from pgjax.runs.settings.flags import Settings
    >>> texts(Settings)["shared"]
    'Let the critic share all layers but the last with the policy.'
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # made in memory, or built in
            continue
        for one, below in pairwise(getattr(tree, "body", [])) if is_dataclass(base) else ():
            match one, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def paragraphs(text: str) -> str:
    """A docstring as lines that fit the terminal, paragraphs kept apart.

    >>> print(paragraphs("One, two\\n    and three.\\n\\n    Four."))
    One, two and three.
    <BLANKLINE>
    Four.
    """
    width = shutil.get_terminal_size().columns
    parts = (" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))
    return "\n\n".join(textwrap.fill(part, width, break_on_hyphens=False) for part in parts)
