"""The notebooks run from top to bottom: one of them quickly on every run, all in full behind the marker `slow`.

The cookbook has no quick mode, since its cells are there to be copied: two of its recipes are in every run.
"""

import ast
import builtins
import os
import re
import symtable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
COOKBOOK = next(path for path in NOTEBOOKS if path.stem == "08_cookbook")


ALLOWED = {"pgjax", "jax", "numpy", "flax", "matplotlib", "optax", "os", "functools", "dataclasses", "typing"}


def syntax(path):
    """The notebook's code as one module."""
    cells = nbformat.read(path, as_version=4).cells
    return ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))


def execute(path, folder, monkeypatch, quick):
    monkeypatch.setenv("PGJAX_QUICK", "1" if quick else "0")
    return executed(nbformat.read(path, as_version=4), folder)


def executed(notebook, folder):
    NotebookClient(notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


ON_EVERY_RUN = "01"  # the rest on every run of the slow suites


def _run(path):
    slow = () if path.stem.startswith(ON_EVERY_RUN) else pytest.mark.slow
    return pytest.param(path, id=path.stem, marks=slow)


@pytest.mark.slow
@pytest.mark.parametrize("path", [_run(path) for path in NOTEBOOKS if path != COOKBOOK])
def test_quick(path, tmp_path, monkeypatch):
    execute(path, tmp_path, monkeypatch, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_in_full_without_a_warning(path, tmp_path, monkeypatch):
    notebook = execute(path, tmp_path, monkeypatch, quick=False)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_kept_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "not executed in order from a fresh start"
    assert path.stat().st_size < 600_000
    assert str(Path.home()) not in path.read_text() and os.sep + "work" + os.sep not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_needs_only_the_library_and_plotting(path):
    nodes = list(ast.walk(syntax(path)))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} <= ALLOWED


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_function_fits_on_a_screen(path):
    functions = [node for node in ast.walk(syntax(path)) if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 30 for node in functions)


def test_there_are_nine():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]


# The cookbook: a heading in the reader's words, a sentence or two, one cell


def recipes():
    """The first cell's code, and (heading, prose, code) of every recipe."""
    cells = [cell for cell in nbformat.read(COOKBOOK, as_version=4).cells if cell.source.strip()]
    where = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    found = []
    for i in where[1:]:
        heading, _, text = cells[i - 1].source.rpartition("### ")[2].partition("\n")
        found.append((heading, text.strip(), cells[i].source))
    return cells[where[0]].source, found


FIRST, RECIPES = recipes()
WISHES = re.compile(r"(\d+)\. I want ")
MOST_LINES = 15
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[0])


def test_the_cookbook_meets_at_least_twenty_wishes_in_order():
    numbers = [int(match[1]) for heading, *_ in RECIPES if (match := WISHES.match(heading))]
    assert len(RECIPES) >= 20 and numbers == list(range(1, len(RECIPES) + 1))


@each_recipe
def test_a_recipe_is_short(recipe):
    _, text, code = recipe
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    assert text and len(re.findall(r"[.?:](?=\s|$)", text)) <= 3, text


def foreign(code):
    """Names that a cell reads and does not bind at its top level, builtins aside; and those that it binds."""
    bound, read, tables = set(), set(), [symtable.symtable(code, "cell", "exec")]
    bound = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    while tables:
        table = tables.pop()
        tables += table.get_children()
        at_top = table.get_type() == "module"
        read |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (at_top or s.is_global())}
    return read - bound - set(dir(builtins)), bound


@each_recipe
def test_a_recipe_needs_nothing_but_the_first_cell(recipe):
    names, _ = foreign(recipe[2])
    assert names <= foreign(FIRST)[1]


def test_a_name_of_another_cell_is_seen():
    assert foreign("x = 1\ndef f(y):\n    return x + y + z\nf(w)") == ({"z", "w"}, {"x", "f"})


QUICK_RECIPES = ("5. ", "27. ")


@pytest.mark.costly
def test_some_recipes_run(tmp_path):
    notebook = nbformat.read(COOKBOOK, as_version=4)
    chosen = {FIRST} | {code for heading, _, code in RECIPES if heading.startswith(QUICK_RECIPES)}
    notebook.cells = [cell for cell in notebook.cells if cell.source in chosen]
    assert len(executed(notebook, tmp_path).cells) == 1 + len(QUICK_RECIPES)
