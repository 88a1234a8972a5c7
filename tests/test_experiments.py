"""Every script runs in its quick mode and leaves what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem not in ("train", "exact_table"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_mode(name, tmp_path):
    command = [sys.executable, EXPERIMENTS / f"{name}.py", "--quick", "--out", tmp_path / "results"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "results").iterdir()} == {f"{name}-quick.png", f"{name}-quick.csv"}
    assert done.stderr == ""


def test_exact_table_reads_a_problem_and_writes_all_numbers(tmp_path):
    table = json.loads((Path(__file__).parent / "data" / "exact_table.json").read_text())
    (tmp_path / "mdp.json").write_text(json.dumps(table["input"]))
    done = run_exact_table(tmp_path, "--mdp", "mdp.json", "--json", "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    expected = table["output"]
    assert result["trajectories"] == 251 and set(result["estimators"]) == {*expected["estimators"], "dice"}
    np.testing.assert_allclose(result["objective"], expected["objective"], atol=1e-8)
    np.testing.assert_allclose(result["gradient"], expected["gradient"], atol=1e-8)
    for name, row in expected["estimators"].items():
        for key, value in row.items():
            np.testing.assert_allclose(result["estimators"][name][key], value, atol=1e-8, err_msg=f"{name}, {key}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": [[[0.6, 0.6]] * 2] * 2}, r"transition\[0, 0\]: 1.2 is the row's sum"),
        ({"transition": [[[0.6, -0.1]] * 2] * 2}, r"transition\[0, 0, 1\]: -0.1 is a negative"),
        ({"reward": [[1.0, 0.0]]}, "reward: "),
        ({"initial": [0.6, 0.5]}, "initial: 1.1"),
        ({"horizon": 30}, r"horizon: 30 means about \d.\de\+\d+ trajectories"),
        ({"horizon": 0}, "horizon: 0"),
        ({"discount": 1.5}, "discount: 1.5"),
        ({"target_logits": [[0.0, 0.0]]}, "target_logits: "),
        ({"behaviour_logits": [[0.0, float("nan")]] * 2}, "behaviour_logits: nan"),
    ],
)
def test_bad_problems_are_refused_in_one_line(tmp_path, change, message):
    good = {
        "initial": [0.5, 0.5],
        "transition": [[[0.5, 0.3]] * 2] * 2,
        "reward": [[1.0, 0.0]] * 2,
        "horizon": 3,
        "discount": 1.0,
        "behaviour_logits": [[0.0, 0.0]] * 2,
        "target_logits": [[0.0, 1.0]] * 2,
    }
    (tmp_path / "mdp.json").write_text(json.dumps(good | change))
    done = run_exact_table(tmp_path, "--mdp", "mdp.json")
    assert done.returncode == 2
    assert re.match(f"error: {message}", done.stderr) and done.stderr.count("\n") == 1


def run_exact_table(folder, *arguments):
    command = [sys.executable, EXPERIMENTS / "exact_table.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
