"""The command `pgjax`, also `python -m pgjax`: each script of experiments/ is a subcommand."""

import ast
import difflib
import runpy
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pgjax.release import VERSION
from pgjax.runs.show import script
from pgjax.types import SettingError

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ROOT / "pgjax_experiments", ROOT / "experiments"
"""Where the scripts are: beside an installed package, and in a clone."""

FIRST = ("train", "compare", "render", "tune")
"""The scripts for runs of one's own, listed before those that answer one question."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a script with the rest of the command line, or list the scripts. An unknown script exits with status 2."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "--version"):
        with script.one_line():
            print(f"pgjax {VERSION}" if name == "--version" else listing(scripts()))
        return
    with script.one_line():
        path = chosen(name, scripts())
    script.started_by_command()
    sys.argv = [str(path), *rest]
    sys.path.insert(0, str(path.parent))  # as `python PATH` does: scripts import `parts` from their own folder
    runpy.run_path(str(path), run_name="__main__")


def scripts() -> dict[str, Path]:
    """Every script by its name, those of `FIRST` first."""
    folder = next((folder for folder in FOLDERS if (folder / "train.py").is_file()), FOLDERS[0])
    found = {path.stem: path for path in sorted(folder.glob("*.py"))}
    return {name: found[name] for name in (*(name for name in FIRST if name in found), *sorted({*found} - {*FIRST}))}


def chosen(name: str, known: dict[str, Path]) -> Path:
    """The script of a name; `-` may stand for `_`.

    >>> chosen("exact-table", {"exact_table": Path("exact_table.py")}).name
    'exact_table.py'
    """
    if found := known.get(name.replace("-", "_")):
        return found
    near = difflib.get_close_matches(name, known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise SettingError("command", name, f"is not a command; {guess}pgjax --help lists all")


def listing(known: dict[str, Path]) -> str:
    """The help of the command: each script with the question that it answers, in lines that fit the terminal."""
    width = shutil.get_terminal_size().columns
    column = max(map(len, known), default=0) + 4
    one = "`pgjax COMMAND --help` explains a command and its flags; `pgjax --version` prints the version."

    def entry(name: str) -> str:
        text = textwrap.fill(question(known[name]), max(width - column, 20), break_on_hyphens=False)
        return f"  {name}".ljust(column) + textwrap.indent(text, " " * column).lstrip()

    groups = [
        ("your own runs:", [name for name in known if name in FIRST]),
        ("experiments:", [name for name in known if name not in FIRST]),
    ]
    blocks = ["\n".join([title, *map(entry, names)]) for title, names in groups]
    return "\n\n".join(["usage: pgjax COMMAND [FLAGS]", textwrap.fill(one, width), *blocks])


def question(path: Path) -> str:
    """The first line of a script's docstring, up to the question mark if there is one."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = text.partition("\n")[0]
    return line.partition("?")[0] + "?" if "?" in line else line


if __name__ == "__main__":
    main()
