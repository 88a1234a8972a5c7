"""Sizes that no memory holds are refused in one line, before anything is written or compiled."""

import os

import numpy as np
import pytest
from runs import TINY

from pgjax import Config, environments, make_agent, make_trainer, population, reinforce, sweeps
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.sizes import updates_per_chunk
from pgjax.types import SettingError

HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("field", "value", "more"),
    [
        ("seeds", HUGE, ()),
        ("hidden", (HUGE, HUGE), ()),
        ("num_envs", 10**8, ("--seeds", 20)),
        ("eval_episodes", HUGE, ()),
        ("updates_per_chunk", HUGE, ("--total-steps", 2 * 10**9, "--seeds", 20)),
    ],
)
def test_more_than_the_memory_is_refused(here, tmp_path, field, value, more):
    words = map(str, value if isinstance(value, tuple) else (value,))
    with pytest.raises(SettingError, match=rf"^{field}: .* needs .* GB for .*, of .* GB of memory; take less"):
        here(*TINY, *more, f"--{field.replace('_', '-')}", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_chunk_has_no_more_updates_than_the_run():
    settings = Settings(environment="Catch-bsuite", num_envs=4, total_steps=792, updates_per_chunk=HUGE)
    assert updates_per_chunk(build(settings), settings) == 198


def test_more_runs_than_the_memory_are_refused_from_python(here):
    environment = environments.make("SimpleBandit-bsuite")
    trainer, algorithm = make_trainer(environment, make_agent(environment, hidden=()), Config(num_envs=2)), reinforce()
    refused = pytest.raises(SettingError, match=r"^seeds: [0-9]+ needs .* GB for the states of the runs")
    with refused:
        sweeps.start(trainer, algorithm.algorithm, seeds=HUGE)
    with refused:
        sweeps.start(trainer, algorithm.algorithm, seeds=10**8, over={"learning_rate": [0.1] * 40})
    with refused:
        population.start(trainer, algorithm.algorithm, population.Evolution((("learning_rate", 0.1, 0.2),)), seeds=HUGE)


def test_runs_that_are_no_file_are_refused_at_once(tmp_path):
    environment = environments.make("SimpleBandit-bsuite")
    trainer, algorithm = make_trainer(environment, make_agent(environment, hidden=()), Config(num_envs=2)), reinforce()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    np.save(tmp_path / "one.npy", np.zeros(3))
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", tmp_path / "empty", tmp_path / "one.npy"):
        with pytest.raises(SettingError, match="is not a file written by Runs.save"):
            sweeps.load(path, trainer, algorithm.algorithm)
