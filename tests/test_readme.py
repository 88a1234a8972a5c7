"""The READMEs: every link, heading and name exists, tables are whole, examples run, and no formula is missing."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from scripts import run_here

import pgjax
from pgjax import ALGORITHMS

ROOT = Path(__file__).parents[1]
FORMULAS = 45
MOST_LINES = 200


def markdown(path):
    """A README's text, or that of a notebook's markdown cells."""
    if path.suffix == ".md":
        return path.read_text()
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


READMES = [ROOT / "README.md", *sorted(path for path in ROOT.glob("[!.]*/README.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = {str(path.relative_to(ROOT)): markdown(path) for path in (*READMES, *NOTEBOOKS)}
each_page = pytest.mark.parametrize("page", PAGES)


def prose(text):
    """Markdown without its fenced code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


# Links


def anchors(text):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text):
    """Targets of links and images within the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in targets if not re.match(r"\w+:", target)]


def dead(page, text):
    """Links of a page that lead nowhere: no such file inside the repository, or no such heading."""
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve()
        missing = not target.is_relative_to(ROOT) or not target.exists()
        if missing or (anchor and anchor not in anchors(markdown(target) if name else text)):
            yield link


@each_page
def test_every_link_leads_somewhere(page):
    assert not list(dead(page, PAGES[page]))


def test_a_dead_link_is_seen():
    text = "# A b, c\n[](#a-b-c) [](tests/README.md#faults) ![](experiments/results/baselines.png) [](https://x.y)"
    assert not list(dead("README.md", text))
    wrong = ["#a-b,-c", "tests/README.md#none", "results/baselines.png", "../README.md", "pgjax/returns.py"]
    assert list(dead("README.md", " ".join(f"[]({link})" for link in wrong))) == wrong


def test_no_script_notebook_or_page_is_left_out():
    for name, pattern in (("experiments", "*.py"), ("notebooks", "*.ipynb")):
        assert {path.name for path in (ROOT / name).glob(pattern)} <= set(links(PAGES[f"{name}/README.md"]))
    assert {page for page in PAGES if page.endswith("/README.md")} <= set(links(PAGES["README.md"]))


@each_page
def test_every_path_exists(page):
    """Paths in prose and commands, from the repository's root."""
    paths = re.findall(r"(?<![\w./-])(?:pgjax|experiments|tests|notebooks)/[\w./-]*\w", PAGES[page])
    assert not [path for path in paths if not (ROOT / path).exists()]


# Names

PUBLIC = set(pgjax.__all__)
FILES = {"py", "toml", "csv", "png", "md", "ipynb"}


def resolve(name):
    """The object of a dotted name, by public names or by the modules' names of today; former ones are refused."""
    thing = pgjax
    for i, part in enumerate(name.split(".")[1:]):
        if hasattr(thing, part) and (i or part in PUBLIC):
            thing = getattr(thing, part)
        else:
            assert isinstance(thing, ModuleType), f"{name}: no {part}"
            within, thing = thing.__name__, importlib.import_module(f"{thing.__name__}.{part}")
            assert thing.__name__ == f"{within}.{part}", f"{within}.{part} is {thing.__name__} today"
    return thing


def names(text):
    """Dotted names of the package: `pgjax.a.b` anywhere, and `a.b` in backticks where `a` is public."""
    full = re.findall(r"(?<![\w./])pgjax(?:\.[A-Za-z_]\w*)+", text)
    short = [f"pgjax.{name}" for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)", prose(text))]
    short = [name for name in short if name.split(".")[1] in PUBLIC]
    return [name for name in full + short if name.split(".")[-1] not in FILES]


@each_page
def test_every_name_is_one_of_today(page):
    for name in names(PAGES[page]):
        resolve(name)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_name_in_a_notebooks_code_is_one_of_today(path):
    code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    imported = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    for name in names(code) + [name for name in imported if name.startswith("pgjax.")]:
        resolve(name)


def test_a_former_or_unknown_name_is_seen():
    assert names("pgjax.train `oracle.moments(x)` `config.toml` `a.b`") == ["pgjax.train", "pgjax.oracle.moments"]
    assert resolve("pgjax.estimators.returns.reward_to_go") is resolve("pgjax.reward_to_go")
    for name in ("pgjax.losses.Batch", "pgjax.returns.reward_to_go", "pgjax.oracle.nothing", "pgjax.training.nothing"):
        with pytest.raises((AssertionError, ModuleNotFoundError)):
            resolve(name)


# Tables, examples, length


def tables(text):
    """Each table as the list of its lines."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n?)+", prose(text), re.MULTILINE)]


@each_page
def test_tables_are_whole(page):
    for lines in tables(PAGES[page]):
        assert re.fullmatch(r"(\|:?-+:?)+\|", lines[1]), lines[0]
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert len(set(bars)) == 1, [line for n, line in zip(bars, lines) if n != bars[0]]


BLOCKS = {
    f"{path.relative_to(ROOT)} {i}": block
    for path in READMES
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL))
}


@pytest.mark.costly
@pytest.mark.parametrize(
    "block", [b if b.startswith("README.md") else pytest.param(b, marks=pytest.mark.slow) for b in BLOCKS]
)
def test_every_python_block_runs_by_itself(block, tmp_path):
    if "import torch" in BLOCKS[block]:
        pytest.importorskip("torch")
    (tmp_path / "block.py").write_text(BLOCKS[block].replace("total_steps=200_000", "total_steps=2_000"))
    (tmp_path / "here").mkdir()
    done = run_here(tmp_path / "block.py", folder=tmp_path / "here")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not list((tmp_path / "here").iterdir())


def test_the_readme_begins_with_the_main_job_and_the_tests_and_is_short():
    first, second = re.findall(r"^```bash\n(.*?)^```", PAGES["README.md"], re.MULTILINE | re.DOTALL)[:2]
    assert first.rstrip().endswith("&& .venv/bin/python experiments/train.py")
    assert second.rstrip().endswith("&& .venv/bin/python -m pytest")
    assert PAGES["README.md"].count("\n") <= MOST_LINES


# Tables of methods


def section(page, heading):
    """The text of a page from a heading to the next of the same level."""
    return re.split(r"^" + heading.split()[0] + " ", PAGES[page].partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]


def test_the_tables_of_methods_name_every_method():
    front, guide = section("README.md", "## Methods"), section("pgjax/README.md", "## Methods")
    family = section("experiments/README.md", "## The ratio family")
    assert [name for name in ALGORITHMS if not re.search(rf"`(--algorithm )?{name}\b.*`", guide)] == []
    rows = "".join(line.split("|")[1] for line in front.splitlines() if line.startswith("|"))
    relatives = [name for name in ALGORITHMS if f"`{name}`" not in rows]
    assert [name for name in relatives if f"`{name}`" not in family] == []
    assert len(relatives) == 7 and "seven relatives" in front


# The chapter map


def chapter_map():
    """The rows of the map as (number, formula, function, test, notebook)."""
    section = PAGES["notebooks/README.md"].split("\n## Chapter map\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if re.match(r"\| \d+\*? \|", line)]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]


ROWS = chapter_map()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].rstrip("*"))


def test_no_formula_is_missing():
    assert [int(row[0].rstrip("*")) for row in ROWS] == list(range(1, FORMULAS + 1))
    assert all(len(row) == 5 and all(row) for row in ROWS)


@each_row
def test_the_function_is_there(row):
    assert callable(resolve(re.fullmatch(r"`(pgjax\.[\w.]+)`", row[2])[1]))


@each_row
def test_the_test_is_there(row):
    path, name = re.fullmatch(r"`(tests/\w+\.py)::(test_\w+)`", row[3]).groups()
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@each_row
def test_the_notebook_has_the_section(row):
    path, section = re.fullmatch(r"\[\d\d\]\((\w+\.ipynb)\) §(\d)", row[4]).groups()
    assert re.search(rf"^## (Page )?{section}\. ", PAGES[f"notebooks/{path}"], re.MULTILINE)
