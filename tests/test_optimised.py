"""A named part of the suite that compiles as users' programs do, with XLA's optimiser on: -m optimised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PART = ("tests/test_padding.py::test_a_gradient_over_executed_steps_is_that_over_all_rows[reinforce]",)
WHOLE_BATCH = "tests/test_contracts.py::test_a_surrogate_that_declares_nothing_is_given_the_whole_batch_by_every_engine"


@pytest.mark.costly
@pytest.mark.optimised
@pytest.mark.parametrize("part", [PART, pytest.param(("tests/test_padding.py", WHOLE_BATCH), marks=pytest.mark.slow)])
def test_the_same_holds_with_the_optimiser_on(part):
    """In a process of its own: XLA reads its flags once."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "", *part]
    environment = os.environ | {"XLA_FLAGS": "", "PYTEST_ADDOPTS": ""}
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-1000:]
    assert "[100%]" in child.stdout
