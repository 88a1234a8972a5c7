"""A sweep in one call: seeds × settings, trained to their end."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pgjax import counters
from pgjax.sweeps.evaluation import evaluation_point, points_passed
from pgjax.sweeps.loop import chunks, join, steps_of
from pgjax.sweeps.runs import Over, Runs, start
from pgjax.types import Algorithm, Trainer


class SweepResult(NamedTuple):
    """What a sweep leaves.

    Attributes:
      runs: in their final state.
      metrics: by name, each [R, updates].
      evaluation: env_steps, sampled_return and greedy_return at every evaluation, each [R, points]; empty without.
    """

    runs: Runs
    metrics: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]


def sweep(
    trainer: Trainer,
    algorithm: Algorithm,
    *,
    total_steps: float,
    seeds: int | Sequence[int] = 1,
    over: Over | None = None,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
    updates_per_chunk: int = 10,
    max_updates: int | None = None,
    evaluate_every: float | None = None,
    eval_episodes: int = 64,
) -> SweepResult:
    """Train all seeds × settings, each for `total_steps` environment steps, traced and compiled once.

    Args:
      trainer: what to run.
      algorithm: hyperparameters that are not swept.
      total_steps: environment steps per run, a whole number such as 100_000 or 1e5; a run ends with the first update
        that reaches it.
      seeds: how many, or which.
      over: hyperparameter name -> values, or a list of settings, as in `start`.
      devices: where; default all.
      mesh: how they are used, as in `start`.
      updates_per_chunk: updates per compiled call.
      max_updates: stop after about so many (whole chunks), whatever steps have been taken; default never. A policy
        whose episodes have become short would otherwise need very many.
      evaluate_every: evaluate all runs whenever so many more environment steps have been taken, in the mean over runs:
        at the end of the chunk in which that happens, and once more at the end. Training is the same without, to the
        bit.
      eval_episodes: how many, sampled and greedy each; the same in every evaluation, with keys of their own.

    Raises:
      SettingError: as `start`; for numbers that are no counts, or more steps than a counter of 32 bits holds.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("Catch-bsuite")
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> result = sweep(trainer, reinforce().algorithm, total_steps=72, seeds=2, over={"learning_rate": [0.1, 0.01]})
    >>> result.runs.settings["learning_rate"].tolist(), result.runs.seeds.tolist()
    ([0.1, 0.1, 0.01, 0.01], [0, 1, 0, 1])
    >>> result = sweep(trainer, reinforce().algorithm, total_steps=144, updates_per_chunk=2, evaluate_every=72)
    >>> result.evaluation["env_steps"].tolist(), result.evaluation["greedy_return"].shape
    ([[72, 144]], (1, 2))
    """
    total_steps = counters.budget("total_steps", total_steps, steps_of(trainer))
    updates_per_chunk = counters.count("updates_per_chunk", updates_per_chunk)
    max_updates = None if max_updates is None else counters.count("max_updates", max_updates)
    every = None if evaluate_every is None else counters.count("evaluate_every", evaluate_every)
    eval_episodes = counters.count("eval_episodes", eval_episodes)
    runs = start(trainer, algorithm, seeds=seeds, over=over, devices=devices, mesh=mesh)
    pieces, points, passed = [], [], 0
    for now, metrics in chunks(trainer, runs, total_steps, updates_per_chunk, donate=True):
        pieces.append(metrics)
        runs = now
        if every is not None and passed < points_passed(metrics["env_steps"][:, -1], every):
            passed = points_passed(metrics["env_steps"][:, -1], every)
            points.append(evaluation_point(trainer, runs, eval_episodes))
        if max_updates is not None and len(pieces) * updates_per_chunk >= max_updates:
            break
    metrics = join(pieces)
    if every is not None and not (points and np.array_equal(points[-1]["env_steps"], metrics["env_steps"][:, -1])):
        points.append(evaluation_point(trainer, runs, eval_episodes))
    evaluation = {name: np.stack([point[name] for point in points], axis=1) for name in points[0]} if points else {}
    return SweepResult(runs, metrics, evaluation)
