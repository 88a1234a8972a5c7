"""The command `pgjax`: every script is a subcommand, in a clone and installed from a wheel."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import pgjax
from pgjax import __main__ as command
from pgjax.release import NAME

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}


def run(*words, folder, **environment):
    """A command in a folder; its output if it succeeds."""
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    around |= {"COLUMNS": "80", **environment}
    done = subprocess.run([*map(str, words)], cwd=folder, env=around, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_listed_with_its_question(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command.main([])
    text = capsys.readouterr().out
    command.main(["--help"])
    assert capsys.readouterr().out == text
    assert re.findall(r"^  (\w+)  ", text, re.MULTILINE) == list(command.scripts())
    assert set(command.scripts()) == SCRIPTS and text.count("?") == len(SCRIPTS) - 1
    assert max(map(len, text.splitlines())) <= 80


def test_every_package_is_in_the_distribution():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "pgjax").rglob("__init__.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert set(listed) == found | {"pgjax_experiments", "pgjax_experiments.parts"}


def test_the_version_is_that_of_the_code(capsys):
    command.main(["--version"])
    assert capsys.readouterr().out == f"pgjax {pgjax.__version__}\n"


def test_an_unknown_command_ends_with_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["trian", "--quick"])
    told = capsys.readouterr()
    assert end.value.code == 2 and told.out == ""
    assert told.err == "error: command: 'trian' is not a command; did you mean train? pgjax --help lists all\n"


@pytest.mark.costly
@pytest.mark.parametrize("name", ["train", "exact-table"])
def test_a_command_runs_its_script_under_its_own_name(name, tmp_path):
    text = run(sys.executable, "-m", "pgjax", name, "--help", folder=tmp_path, PYTHONPATH=str(ROOT))
    docstring = ast.get_docstring(ast.parse((ROOT / f"experiments/{name.replace('-', '_')}.py").read_text()))
    assert text.startswith(docstring[:40]) and f"usage: pgjax {name.replace('-', '_')} " in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this clone."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` of an environment with the wheel; its dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, folder=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(paths))
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_scripts_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    policies = {f"pgjax/pretrained/policies/{path.name}" for path in pgjax.pretrained.FOLDER.iterdir()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pgjax").rglob("*.py")}
    scripts = {f"pgjax_experiments/{name}.py" for name in SCRIPTS}
    assert policies | modules | scripts | {"pgjax/py.typed", "pgjax/runs/settings/tuned.toml"} < names
    rest = {name for name in names if not name.startswith((*policies, "pgjax_experiments/", "policy_gradients_jax-"))}
    assert rest == modules | {"pgjax/py.typed", "pgjax/runs/settings/tuned.toml"}
    others = {name for name in names if name.startswith("pgjax_experiments/") and not name.endswith(".py")}
    assert others == {"pgjax_experiments/published.toml"}


@pytest.mark.slow
def test_an_installed_command_trains_resumes_compares_renders_and_tabulates(installed, tmp_path):
    def pgjax_(*words):
        return run(installed / "pgjax", *words, folder=tmp_path)

    code = f"""
import pgjax
from importlib.metadata import version
print(pgjax.__file__, version({NAME!r}), pgjax.load_policy("CartPole-v1").card.environment)
"""
    file, version, environment = run(installed / "python", "-c", code, folder=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert (version, environment) == (pgjax.__version__, "CartPole-v1")

    pgjax_("train", "--quick")
    config = tmp_path / "runs" / "CartPole-v1-reinforce-1" / "config.toml"
    assert config.read_text().startswith("# pgjax train --config THIS_FILE runs it again\n")
    assert f'\npgjax = "{pgjax.__version__}"\n' in config.read_text()
    pgjax_("train", "--resume", config.parent, "--total-steps", 6000)
    pgjax_("compare", config.parent)
    pgjax_("render", config.parent, "--quick")
    pgjax_("fields", "--quick")
    assert "reward_to_go" in pgjax_("exact_table", "--quick")
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.iterdir()}
    assert made == {"runs", "comparison.csv", "comparison.png", "results"}
    assert (config.parent / "episode.gif").exists() and (config.parent / "evaluation.csv").exists()
