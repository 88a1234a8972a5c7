"""The rooms and their layers: imports run downwards, the core knows nothing of runs, importing is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pgjax"
LAYERS = [  # from top to bottom: a room imports only from layers below its own, and from itself
    {"pretrained"},
    {"runs"},
    {"testing"},
    {"oracle"},
    {"population"},
    {"sweeps"},
    {"methods"},
    {"training"},
    {"policies", "environments"},
    {"estimators"},
    {"config"},
    {"counters", "release"},
    {"types"},
    {"spaces"},
]
ENGINE_USERS = {"training", "sweeps", "population", "runs"}
SHOWS = {PACKAGE / "oracle" / "certificates" / "show.py"} | {
    PACKAGE / "sweeps" / f"{n}.py" for n in ("progress", "curves")
}
ABOVE_ALL = {"__init__", "__main__", "former_names"}  # what makes the public names, and the command


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


MODULES = [path for path in PACKAGE.rglob("*.py") if room(path) not in ABOVE_ALL]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "pgjax" else [f"pgjax.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def test_imports_run_downwards():
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    assert {room(path) for path in MODULES} - {"engine"} <= set(rank)
    for path in MODULES:
        here = room(path)
        for there in {name.split(".")[1] for name in imported(path) if name.startswith("pgjax.")} - {here}:
            if there == "engine":
                assert here in ENGINE_USERS, f"{path} imports the engine"
            elif here == "engine":
                assert there in ("estimators", "counters", "types"), f"{path} imports {there}"
            else:
                assert rank[there] > rank[here], f"{path} imports {there}"


def test_flax_is_imported_by_networks_and_their_layers_alone_and_what_scripts_need_by_runs_alone():
    for path in MODULES:
        names = {name.split(".")[0] for name in imported(path)}
        assert path.stem in ("networks", "convolution", "gru") or "flax" not in names, path
        shows = room(path) == "runs" or path in SHOWS
        assert shows or not names & {"rich", "matplotlib"}, path
        assert room(path) == "runs" or not names & {"tyro", "orbax"}, path
        assert path == PACKAGE / "oracle" / "certificates" / "frameworks.py" or "torch" not in names, path


def test_importing_pgjax_does_not_import_what_only_environments_and_scripts_need():
    families = ("gymnax", "brax", "mujoco_playground", "jumanji", "craftax", "navix", "xminigrid", "pgx")
    names = (*families, "matplotlib", "tyro", "torch", "pandas")
    code = f"import pgjax, sys; print([m for m in {names} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
