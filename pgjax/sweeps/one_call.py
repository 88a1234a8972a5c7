"""A sweep in one call: seeds × settings, trained to their end."""

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
"""Called between chunks: (runs, the chunk's metrics by name [R, updates]) -> None, bool, bools [R], or Runs."""


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
      progress: show a bar: steps, worst and best seed, steps per second, time left. On standard error, where that is a
        terminal; or in the notebook.
      callback: called after every chunk with the runs and the chunk's metrics by name, [R, updates]. None or False goes
        on, True stops all runs; an array of bools [R] stops those that are True, for good; Runs take the place of the
        ones it was given, as `runs.with_hyperparameters(learning_rate=1e-4)` makes them. The state of runs is deleted
        when the next chunk begins: copy what you keep.

    Ctrl-C ends it after the chunk in flight, with a line, and what is done by then is returned; a second one is a
    KeyboardInterrupt at once.

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
        line = f"stopped by Ctrl-C after update {_updates(metrics)}: the result holds what is done"
        print(line, file=unfailing(sys.stderr), flush=True)
    if every is not None and not (points and np.array_equal(points[-1]["env_steps"], steps)):
        points.append(evaluation_point(trainer, runs, eval_episodes))
    evaluation = {name: np.stack([point[name] for point in points], axis=1) for name in points[0]} if points else {}
    return SweepResult(runs, join(pieces), evaluation, interrupted)


def _answer(answer: Any, runs: Runs) -> tuple[Runs, np.ndarray]:
    """What a callback wants: the runs to go on with, and which of them to stop, [R].

    Raises:
      SettingError: for an answer that is none.
    """
    going_on = np.zeros(len(runs.seeds), bool)
    if answer is None:
        return runs, going_on
    if isinstance(answer, Runs):
        if len(answer.seeds) != len(runs.seeds):
            raise SettingError("callback", answer, f"are not the {len(runs.seeds)} runs that it was given")
        return answer, going_on
    stopping = np.asarray(answer)
    if stopping.dtype != bool or stopping.shape not in ((), going_on.shape):
        reason = f"is no answer of a callback: return None, a bool, {len(going_on)} bools, or Runs"
        raise SettingError("callback", answer, reason)
    return runs, going_on | stopping


def _updates(metrics: dict[str, np.ndarray]) -> int:
    return int(metrics["update"][:, -1].max())


def _bar(total_steps: int, shown: bool) -> AbstractContextManager[Any]:
    if not shown or not hosts.is_first():
        return nullcontext()
    from pgjax.sweeps.progress import progress_bar

    return progress_bar(total_steps)
