"""Every script runs in its quick mode and leaves what it says."""

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import EXPERIMENTS, here, in_a_process

from pgjax import SettingError

MAIN_JOB = {  # what each is given besides --quick, and leaves: they train, or read what was trained
    "train": ("--out run", "run/evaluation.csv"),
    "compare": ("run", "comparison.csv"),
    "render": ("run", "run/episode.gif"),
    "scores": ("run --out scores", "scores/scores.md"),
    "pretrained": ("--add run --commit abc --folder policies", "policies/CartPole-v1.npz"),
    "tune": ("--hidden 8 --folder tuning", "tuning/best.toml"),
    "ratio_family": ("--json facts.json", "facts.json"),
}
WITHOUT_A_FIGURE = {*MAIN_JOB, "exact_table"}
SCRIPTS = sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem not in WITHOUT_A_FIGURE)


ON_EVERY_RUN = ("certificates", "large_sweep")  # the rest is slow


def fits(text):
    """No line is longer than a terminal's 80 columns, but for those that end with where a file is; none is cut."""
    long = [line for line in text.splitlines() if len(line) > 80 and not re.match("wrote |results are in ", line)]
    return not long and not re.search("… *[│┃]", text)


@pytest.mark.costly
@pytest.mark.parametrize("name", [n if n in ON_EVERY_RUN else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS])
def test_quick_mode(name, tmp_path):
    done = here(name, "--quick", "--out", tmp_path / "results", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "results").iterdir()} == {f"{name}-quick.png", f"{name}-quick.csv"}
    assert done.stderr == "" and fits(done.stdout), done.stdout


@pytest.mark.costly
def test_quick_modes_of_the_main_job(tmp_path):
    for name, (arguments, left) in MAIN_JOB.items():
        done = here(name, "--quick", *arguments.split(), folder=tmp_path)
        assert done.returncode == 0 and done.stderr == "", (name, done.stderr)
        assert (tmp_path / left).stat().st_size > 0
        assert fits(done.stdout), done.stdout
    steps = np.genfromtxt(tmp_path / "run" / "evaluation.csv", delimiter=",", names=True)["env_steps"]
    assert len(steps) == 2 and all(steps >= 4000) and all(steps < 10_000)


@pytest.mark.costly
def test_no_script_that_chooses_devices_has_started_jax_before():
    """It would choose too late; what runs here, where jax has started, does not show it."""
    choosing = [p.stem for p in EXPERIMENTS.glob("*.py") if re.search(r"\b(start|use_cpu_devices)\(", p.read_text())]
    code = f"""
from importlib import import_module
from jax._src import xla_bridge
started = [name for name in {choosing} if import_module(name) and xla_bridge.backends_are_initialized()]
assert not started, started
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=EXPERIMENTS, capture_output=True, text=True, timeout=100)
    assert len(choosing) > 15 and (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda p: p.stem)
def test_every_script_says_its_question_and_what_to_expect(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert "?" in text.splitlines()[0] or path.stem == "train", "the first line is the question"
    assert re.search(r"\b[Ee]xpect\b", text)


@pytest.mark.costly
def test_exact_table_reads_a_problem_and_writes_all_numbers(tmp_path):
    table = json.loads((Path(__file__).parent / "data" / "exact_table.json").read_text())
    (tmp_path / "mdp.json").write_text(json.dumps(table["input"]))
    done = here("exact_table", "--mdp", "mdp.json", "--json", "out.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    expected = table["output"]
    assert result["trajectories"] == 251 and set(result["estimators"]) == {*expected["estimators"], "dice"}
    np.testing.assert_allclose(result["objective"], expected["objective"], atol=1e-8)
    np.testing.assert_allclose(result["gradient"], expected["gradient"], atol=1e-8)
    for name, row in expected["estimators"].items():
        for key, value in row.items():
            np.testing.assert_allclose(result["estimators"][name][key], value, atol=1e-8, err_msg=f"{name}, {key}")


def test_a_quick_exact_table_has_a_horizon_of_two():
    script = runpy.run_path(str(EXPERIMENTS / "exact_table.py"))
    assert [script["problem"](script["Options"](quick=quick))[0].horizon for quick in (True, False)] == [2, 4]


GOOD = {
    "initial": [0.5, 0.5],
    "transition": [[[0.5, 0.3]] * 2] * 2,
    "reward": [[1.0, 0.0]] * 2,
    "horizon": 3,
    "discount": 1.0,
    "behaviour_logits": [[0.0, 0.0]] * 2,
    "target_logits": [[0.0, 1.0]] * 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": [[[0.6, 0.6]] * 2] * 2}, r"transition\[0, 0\]: 1.2 is the sum of the row"),
        ({"transition": [[[0.6, -0.1]] * 2] * 2}, r"transition\[0, 0, 1\]: -0.1 is a negative"),
        ({"transition": [[[0.6, 0.1]], [[0.6]]]}, "transition: 'list' is not a table of numbers"),
        ({"reward": [[1.0, 0.0]]}, "reward: "),
        ({"reward": [[1.0, "many"]] * 2}, "reward: 'list' is not a table of numbers"),
        ({"initial": [0.6, 0.5]}, "initial: 1.1"),
        ({"horizon": 30}, r"horizon: 30 means about \d.\de\+\d+ trajectories"),
        ({"horizon": 1_000_000}, r"horizon: 1000000 means more than 1e\+300 trajectories"),
        ({"horizon": 0}, "horizon: 0"),
        ({"horizon": 2.5}, "horizon: 2.5"),
        ({"horizon": None}, "horizon: None"),
        ({"discount": 1.5}, "discount: 1.5"),
        ({"discount": None}, "discount: None"),
        ({"discount": float("nan")}, "discount: nan"),
        ({"target_logits": [[0.0, 0.0]]}, "target_logits: "),
        ({"behaviour_logits": [[0.0, float("nan")]] * 2}, "behaviour_logits: nan"),
    ],
)
def test_bad_problems_are_refused_in_one_line(tmp_path, change, message):
    script = runpy.run_path(str(EXPERIMENTS / "exact_table.py"))
    (tmp_path / "mdp.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(SettingError, match=f"^{message}") as error:
        script["main"](script["Options"](mdp=tmp_path / "mdp.json"))
    assert "\n" not in str(error.value)


@pytest.mark.costly
def test_a_refusal_is_all_that_a_person_sees(tmp_path):
    (tmp_path / "mdp.json").write_text(json.dumps(GOOD | {"horizon": 0}))
    done = in_a_process("exact_table", "--mdp", "mdp.json", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch("error: horizon: 0 .*\n", done.stderr)
