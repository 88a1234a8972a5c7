"""SLURM for real: the recipe of experiments/README.md, undisturbed, requeued, and ended by its time limit."""

import re
import sys
import time
from pathlib import Path

import pytest
import slurm
from runs import TINY, fingerprint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAINED = [*TINY, "--devices", "1", "--save-every", "1", "--total-steps", str(36 * 30_000)]
"""Minutes of tiny updates: a time limit's signal comes a minute after the start, and must find the run at work."""

TWO_TASKS = ["--nodes=2", "--ntasks-per-node=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of two nodes."""
    if reason := slurm.missing():
        pytest.skip(reason)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the recipe is submitted: the README's script as it stands but for what it trains, this interpreter."""
    folder = tmp_path_factory.mktemp("submitted")
    text = (ROOT / "experiments" / "README.md").read_text()
    script = re.search(r"\*\*SLURM\.\*\*.*?```bash\n(.*?)```", text, re.DOTALL)[1]
    assert script.count("--seeds 512") == 1
    (folder / "job.sh").write_text(script.replace("--seeds 512", " ".join(TRAINED)))
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    return folder


def submit(cluster, place, *options):
    """The number of a submitted job, its run directory, and what it prints."""
    environment = cluster | {"HOME": str(place)}
    job = slurm.submit(environment, place / "job.sh", place, *TWO_TASKS, *options)
    return job, place / "runs" / f"job-{job}", place / f"slurm-{job}.out"


def wait_for(condition, seconds):
    """Whether something came to hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.5)
    return False


def end_of(cluster, job, output):
    """What the controller knows of a job that has ended by itself."""
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
    assert wait_for(lambda: slurm.facts(cluster, job)["JobState"] in ended, 900), output.read_text()[-3000:]
    facts = slurm.facts(cluster, job)
    assert facts["JobState"] == "COMPLETED", (facts, output.read_text()[-3000:])
    return facts


@pytest.fixture(scope="module")
def whole(cluster, place):
    """A job that nothing disturbs."""
    job, run, output = submit(cluster, place)
    facts = end_of(cluster, job, output)
    assert facts["Restarts"] == "0"
    print(f"\nundisturbed: {facts['RunTime']}")
    return run


@pytest.mark.timeout(1800)
def test_a_job_that_is_requeued_ends_as_if_undisturbed(cluster, place, whole):
    job, run, output = submit(cluster, place)
    assert wait_for(lambda: (run / "checkpoints").exists() and any((run / "checkpoints").iterdir()), 120)
    slurm.control(cluster, "requeue", job)
    facts = end_of(cluster, job, output)
    print(f"\nrestarts {facts['Restarts']}\n{output.read_text()}")
    assert int(facts["Restarts"]) >= 1
    assert fingerprint(run) == fingerprint(whole)


@pytest.mark.timeout(1800)
def test_a_job_that_reaches_its_time_limit_ends_as_if_undisturbed(cluster, place, whole):
    job, run, output = submit(cluster, place, "--time=3")
    facts = end_of(cluster, job, output)
    print(f"\nrestarts {facts['Restarts']}\n{output.read_text()}")
    assert int(facts["Restarts"]) >= 1
    assert "stopped by SIGTERM" in output.read_text()
    assert fingerprint(run) == fingerprint(whole)
