"""A complete sweep in one call."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from pgjax import counters
from pgjax.engine import hosts
from pgjax.engine.output import unfailing
from pgjax.sweeps.evaluation import evaluation_point, points_passed
from pgjax.sweeps.interrupts import interrupt_noted
from pgjax.sweeps.loop import advance, join, steps_of
from pgjax.sweeps.results import SweepResult
from pgjax.sweeps.runs import Over, Runs, start
from pgjax.types import Algorithm, SettingError, Trainer

Callback = Callable[[Runs, dict[str, np.ndarray]], Any]
"""Called between chunks: (runs, metrics of the chunk by name, [R, updates]) -> None, bool, bools [R], or Runs."""


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
    progress: bool = False,
    callback: Callback | None = None,
) -> SweepResult:
    """Train all seeds × settings, each for `total_steps` environment steps, traced and compiled once.

    Args:
      algorithm: hyperparameters that are not swept.
      total_steps: environment steps per run, such as 1e5; a run ends with the first update that reaches it.
      seeds: how many, or which.
      over: hyperparameter name -> values, or a list of settings, as in `start`.
      devices, mesh: as in `start`; default all devices.
      updates_per_chunk: updates per compiled call.
      max_updates: stop after about this many updates (whole chunks). Without it, a policy with short episodes can need
        very many updates.
      evaluate_every: evaluate all runs each time this many more environment steps were taken, in the mean over runs, at
        the end of a chunk, and at the end of training. Training itself does not change, bit for bit.
      eval_episodes: number of episodes, sampled and greedy each, the same in every evaluation.
      progress: show a progress bar on standard error, if that is a terminal, or in a notebook.
      callback: called after every chunk with the runs and the chunk's metrics, [R, updates]. It returns None or False
        to continue, True to stop all runs, bools [R] to stop some, or Runs to continue with, such as
        `runs.with_hyperparameters(learning_rate=1e-4)`. The next chunk deletes the state of runs: copy what you need.

    Ctrl-C stops after the current chunk and returns the result so far; a second Ctrl-C raises KeyboardInterrupt.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("Catch-bsuite")
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> result = sweep(trainer, reinforce().algorithm, total_steps=72, seeds=2, over={"learning_rate": [0.1, 0.01]})
    >>> result.runs.settings["learning_rate"].tolist(), result.runs.seeds.tolist()
    ([0.1, 0.1, 0.01, 0.01], [0, 1, 0, 1])
    """
    total_steps = counters.budget("total_steps", total_steps, steps_of(trainer))
    updates_per_chunk = counters.count("updates_per_chunk", updates_per_chunk)
    max_updates = None if max_updates is None else counters.count("max_updates", max_updates)
    every = None if evaluate_every is None else counters.count("evaluate_every", evaluate_every)
    eval_episodes = counters.count("eval_episodes", eval_episodes)
    runs = start(trainer, algorithm, seeds=seeds, over=over, devices=devices, mesh=mesh)
    pieces, points, passed, stopped = [], [], 0, np.zeros(len(runs.seeds), bool)
    with interrupt_noted() as interrupt, _bar(total_steps, progress) as bar:
        while True:
            runs, metrics = advance(trainer, runs, total_steps, updates_per_chunk, donate=True, stopped=stopped)
            pieces.append(metrics)
            steps = metrics["env_steps"][:, -1]
            if bar is not None:
                bar.update(metrics, runs.seeds)
            if every is not None and passed < points_passed(steps, every):
                passed = points_passed(steps, every)
                points.append(evaluation_point(trainer, runs, eval_episodes))
            stopped = stopped | (steps >= total_steps)
            if callback is not None:
                runs, stopping = _answer(callback(runs, metrics), runs)
                stopped = stopped | stopping
            enough = max_updates is not None and len(pieces) * updates_per_chunk >= max_updates
            if interrupt or enough or np.all(stopped):
                break
        interrupted = bool(interrupt) and not np.all(stopped)
    if interrupted:
        line = f"stopped by Ctrl-C after update {_updates(metrics)}; returning the result so far"
        print(line, file=unfailing(sys.stderr), flush=True)
    if every is not None and not (points and np.array_equal(points[-1]["env_steps"], steps)):
        points.append(evaluation_point(trainer, runs, eval_episodes))
    evaluation = {name: np.stack([point[name] for point in points], axis=1) for name in points[0]} if points else {}
    return SweepResult(runs, join(pieces), evaluation, interrupted)


def _answer(answer: Any, runs: Runs) -> tuple[Runs, np.ndarray]:
    """The runs to continue with, and which of them to stop [R], from a callback's return value."""
    no_stop = np.zeros(len(runs.seeds), bool)
    if answer is None:
        return runs, no_stop
    if isinstance(answer, Runs):
        if len(answer.seeds) != len(runs.seeds):
            raise SettingError("callback", answer, f"must be the {len(runs.seeds)} runs that the callback received")
        return answer, no_stop
    stopping = np.asarray(answer)
    if stopping.dtype != bool or stopping.shape not in ((), no_stop.shape):
        reason = f"is not a valid return value; return None, a bool, {len(no_stop)} bools, or Runs"
        raise SettingError("callback", answer, reason)
    return runs, no_stop | stopping


def _updates(metrics: dict[str, np.ndarray]) -> int:
    return int(metrics["update"][:, -1].max())


def _bar(total_steps: int, shown: bool) -> AbstractContextManager[Any]:
    if not shown or not hosts.is_first():
        return nullcontext()
    from pgjax.sweeps.progress import progress_bar

    return progress_bar(total_steps)
