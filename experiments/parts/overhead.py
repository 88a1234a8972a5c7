"""Time that a progress bar and a callback add: pairs of trainings with and without them."""

import contextlib
import io
import os
import time
from typing import NamedTuple
from unittest.mock import patch

import jax
import numpy as np

from parts.shapes import Shape, built
from pgjax import sweeps
from pgjax.types import Trainer


class Overhead(NamedTuple):
    """Seconds of both trainings of each pair, [pairs]."""

    plain: np.ndarray
    watched: np.ndarray
    calls: int  # calls of the callback in one training

    def shares(self) -> np.ndarray:
        """Added time as a share of the plain training, per pair.

        >>> Overhead(np.array([1.0, 2.0]), np.array([1.01, 2.0]), 3).shares().round(3).tolist()
        [0.01, 0.0]
        """
        return self.watched / self.plain - 1.0

    def in_words(self) -> str:
        """Median and range over pairs as text."""
        shares = np.sort(self.shares())
        few = f"{len(shares)} pairs, {shares[0]:+.2%} to {shares[-1]:+.2%}"
        return f"progress bar and callback: {np.median(shares):+.2%} of the time, median of {few}"


def overhead(shape: Shape, pairs: int) -> Overhead:
    """Train a shape in pairs, with alternating order, after one compiling run of each."""
    _, _, trainer = built(shape)
    seconds, called = ([], []), 0
    for pair in range(-1, pairs):
        for watched in (False, True) if pair % 2 else (True, False):
            took, calls = _once(shape, trainer, watched)
            if pair >= 0:
                seconds[watched].append(took)
            if watched:
                called = calls
    return Overhead(np.array(seconds[0]), np.array(seconds[1]), called)


def _once(shape: Shape, trainer: Trainer, watched: bool) -> tuple[float, int]:
    """Seconds of one training and the number of callback calls; the bar is drawn to a hidden terminal."""
    returns = []

    def callback(runs: sweeps.Runs, metrics: dict[str, np.ndarray]) -> None:
        returns.append(float(np.nanmean(metrics["entropy"])))

    how = {"progress": True, "callback": callback} if watched else {}
    terminal = patch.dict(os.environ, {"FORCE_COLOR": "1"})
    with terminal, contextlib.redirect_stderr(io.StringIO()) as drawn:
        begun = time.perf_counter()
        result = sweeps.sweep(
            trainer,
            shape.recipe.algorithm,
            total_steps=1e9,
            max_updates=shape.updates,
            seeds=shape.seeds,
            **how,
        )
        jax.block_until_ready(result.runs.state)
        took = time.perf_counter() - begun
    if bool(drawn.getvalue()) != watched:
        raise RuntimeError("the progress bar was drawn although it was off, or not drawn although it was on")
    return took, len(returns)
