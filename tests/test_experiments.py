"""Every script runs in its quick mode and leaves what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(p.stem for p in EXPERIMENTS.glob("*.py") if p.stem != "train")


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_mode(name, tmp_path):
    command = [sys.executable, EXPERIMENTS / f"{name}.py", "--quick", "--out", tmp_path / "results"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "results").iterdir()} == {f"{name}-quick.png", f"{name}-quick.csv"}
    assert done.stderr == ""
