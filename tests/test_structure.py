"""The house rules: imports run one way, the core knows nothing of operation, importing is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pgjax"
ORDER = [  # a module may import only from lines above its own
    {"types", "recurrence", "dependence", "sharing", "dtypes"},
    {
        "config",
        "meshes",
        "processes",
        "statistics",
        "shuffle",
        "runtime",
        "hyperparameters",
        "importance",
        "brax_environments",
    },
    {"schedules"},
    {"returns", "advantages", "surrogates", "distributions", "environments"},
    {"baselines", "estimators", "value_estimates"},
    {"agents", "rollout", "normalisation", "steps"},
    {"networks"},
    {"losses", "evaluation"},
    {"gradients", "oracle", "diagnostics", "minibatches", "compatibility"},
    {"collection"},
    {"guard"},
    {"actor_critics", "training"},
    {"algorithms"},
    {"sweeps"},
]


def place(path):
    """A module by its first name below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


CORE = [p for p in PACKAGE.rglob("*.py") if place(p) not in ("__init__", "lab")]
MODULES = {place(p) for p in CORE}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [node.module] if node.module != "pgjax" else [f"pgjax.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def test_every_module_has_its_place():
    assert set().union(*ORDER) == set(MODULES)


def test_imports_run_one_way():
    rank = {name: i for i, level in enumerate(ORDER) for name in level}
    for path in CORE:
        for other in {name.split(".")[1] for name in imported(path) if name.startswith("pgjax.")} - {place(path)}:
            assert rank[other] < rank[place(path)], f"{place(path)} imports {other}"


def test_only_networks_imports_flax_and_nothing_of_the_core_imports_operation():
    for path in CORE:
        names = set(imported(path))
        assert path.stem == "networks" or not any(n.split(".")[0] == "flax" for n in names), path
        assert not any(n.startswith("pgjax.lab") for n in names), path
        assert not {n.split(".")[0] for n in names} & {"tyro", "rich", "matplotlib", "orbax"}, path


def test_returns_and_surrogates_see_no_network_environment_or_optimiser():
    for stem in ("returns", "advantages", "baselines", "surrogates", "estimators", "importance", "recurrence"):
        roots = {n.split(".")[0] for n in imported(PACKAGE / f"{stem}.py")}
        assert not roots & {"flax", "optax", "gymnax"}


def test_training_names_no_algorithm():
    assert "pgjax.algorithms" not in set(imported(PACKAGE / "training.py"))


def test_importing_pgjax_does_not_import_what_only_environments_and_scripts_need():
    code = (
        "import pgjax, sys; print([m for m in ('gymnax', 'brax', 'matplotlib', 'tyro', 'pandas') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_file_holds_one_idea():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 320, path
