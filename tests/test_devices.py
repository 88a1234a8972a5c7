"""Eight devices do what one does, and say no more to each other than was counted on paper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "devices.py"

EPOCHS, MINIBATCHES = 3, 2
CALLS = {
    "reinforce seeds": 0,
    "ppo seeds": 0,
    # once per update: counts and the baseline's sums; the gradient, and with it sums of the episodes; whether all is
    # finite. Each needs the one before it.
    "reinforce environments": 3,
    "both": 3,
    # per gradient step: the minibatch's steps, then the gradient; once per update: the advantages' mean, then their
    # spread together with the sums of the episodes, then whether all is finite
    "ppo environments": 2 * EPOCHS * MINIBATCHES + 3,
}
"""Collectives per update, counted on paper: what is known together is sent together."""


def on_eight_devices(environment, hidden, *names, seconds):
    """What tests/devices.py finds; killed from outside if it hangs."""
    variables = {k: v for k, v in os.environ.items() if k != "NPROC"}
    variables["PYTHONPATH"] = str(CHILD.parents[1])
    command = [sys.executable, str(CHILD), environment, str(hidden), *names]
    child = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def check(found):
    for name, case in found.items():
        assert case["calls"] == CALLS[name], name
        assert case["apart"] <= (1e-6 if name.endswith("seeds") else 1e-5), name
        assert case["moved"] > 0.1


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
    check(on_eight_devices("Catch-bsuite", 8, "reinforce seeds", "reinforce environments", seconds=500))


@pytest.mark.slow
def test_eight_devices_do_what_one_does_on_cartpole():
    check(on_eight_devices("CartPole-v1", 16, *CALLS, seconds=550))


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_a_hundred_runs_in_a_row_do_not_hang():
    """Each is bounded from outside, by SIGKILL: a run that hangs fails here."""
    for i in range(100):
        check(on_eight_devices("Catch-bsuite", 8, "reinforce environments", seconds=120))
        print(f"{i + 1} of 100", flush=True)
