"""The notebooks run from top to bottom: two of them quickly on every run, all in full behind the marker `slow`."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


ALLOWED = {"pgjax", "jax", "numpy", "matplotlib", "optax", "os", "functools", "dataclasses"}


def syntax(path):
    """The notebook's code as one module."""
    cells = nbformat.read(path, as_version=4).cells
    return ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))


def execute(path, folder, monkeypatch, quick):
    monkeypatch.setenv("PGJAX_QUICK", "1" if quick else "0")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


ON_EVERY_RUN = ("01", "07")  # the rest on every run of the slow suites


def _run(path):
    slow = () if path.stem.startswith(ON_EVERY_RUN) else pytest.mark.slow
    return pytest.param(path, id=path.stem, marks=slow)


@pytest.mark.parametrize("path", [*map(_run, NOTEBOOKS)])
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


def test_there_are_eight():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "09"]
