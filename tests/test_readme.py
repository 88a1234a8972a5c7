"""The README: no formula is missing from its chapter map, every name and link exists, and its examples run."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FORMULAS = 45


def chapter_map():
    """The rows of the map as (number, formula, function, test, notebook)."""
    section = (ROOT / "README.md").read_text().split("\n## Chapter map\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if re.match(r"\| \d+\*? \|", line)]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]


ROWS = chapter_map()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].rstrip("*"))


def test_no_formula_is_missing():
    assert [int(row[0].rstrip("*")) for row in ROWS] == list(range(1, FORMULAS + 1))
    assert all(len(row) == 5 and all(row) for row in ROWS)


@each_row
def test_the_function_is_there(row):
    module, _, name = re.fullmatch(r"`(pgjax\.[\w.]+)`", row[2])[1].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


@each_row
def test_the_test_is_there(row):
    path, name = re.fullmatch(r"`(tests/\w+\.py)::(test_\w+)`", row[3]).groups()
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@each_row
def test_the_notebook_has_the_section(row):
    path, section = re.fullmatch(r"\[\d\d\]\((notebooks/\w+\.ipynb)\) §(\d)", row[4]).groups()
    text = "\n".join(cell.source for cell in nbformat.read(ROOT / path, as_version=4).cells)
    assert re.search(rf"^## (Page )?{section}\. ", text, re.MULTILINE)


BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_every_python_block_runs_by_itself(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[block]], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not list(tmp_path.iterdir())


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 60 and not [link for link in links if not (ROOT / link).exists()]
    images = re.findall(r'src="([^"]+)"', (ROOT / "README.md").read_text())
    assert images and not [image for image in images if not (ROOT / image).exists()]
