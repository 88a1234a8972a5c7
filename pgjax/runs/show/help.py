"""Help texts of command lines: flags in one box per group, with docstrings reflowed to the terminal."""

import ast
import contextlib
import inspect
import re
import shutil
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

HELP = ("-h", "--help")
"""Flags that print the help."""


def print_help(kind: type, description: str, prog: str | None = None) -> None:
    """Print the help of a command line whose flags are the fields of a dataclass."""
    _print(plain(kind), description, prog)


def print_groups(groups: Mapping[str, Any], hidden: Collection[str], description: str, prog: str) -> None:
    """Print the help of flags in groups: name -> instance of a dataclass, whose values are the defaults and whose
    docstring heads the group. Fields in `hidden` are left out, and a group without visible fields.
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
    print(paragraphs(description), end="\n\n")  # tyro would join the lines
    with contextlib.suppress(SystemExit):  # tyro exits after the help
        tyro.cli(flags, args=["--help"], prog=prog, description="")


def plain(kind: type, hidden: Collection[str] = ()) -> Any:
    """A dataclass with the same fields except `hidden`, help texts on one line, and empty defaults not shown."""
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
    """Name of a field -> string below it in the source of a dataclass, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # there is no source
            continue
        for one, below in pairwise(getattr(tree, "body", [])) if is_dataclass(base) else ():
            match one, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def paragraphs(text: str) -> str:
    """A docstring wrapped to the width of the terminal; paragraphs, list items and indented lines stay separate.

    >>> print(paragraphs("One, two\\n    and three:\\n\\n    - four\\n    - five"))
    One, two and three:
    <BLANKLINE>
    - four
    - five
    """
    width = shutil.get_terminal_size().columns
    parts = (re.split(r"\n(?=- |    \S)", part) for part in inspect.cleandoc(text).split("\n\n"))
    return "\n\n".join("\n".join(_filled(item, width) for item in items) for items in parts)


def _filled(item: str, width: int) -> str:
    first = item[: len(item) - len(item.lstrip())]
    rest = first + "  " * item.startswith("- ")
    text = " ".join(item.split())
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
