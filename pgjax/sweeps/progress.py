"""A progress bar for a chunked training loop, in a terminal or a notebook; otherwise nothing is shown."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pgjax.engine.output import unfailing

BAR_WIDTH = 8  # leaves room for the text in 80 columns

Show = Callable[[str, float, str], None]
"""Shows the current activity, the steps done, and a note."""


class ProgressBar:
    """Shows steps, the mean return of the last update, worst and best seed, steps per second and time left."""

    def __init__(self, show: Show, total_steps: int, done: int):
        """Start at `done` environment steps per run, of `total_steps`."""
        self._show, self._total, self._done, self._note = show, total_steps, float(done), ""
        self._start: tuple[float, float] | None = None  # time and steps after the first chunk, which compiles
        self.say("compiling")

    def update(self, metrics: dict[str, np.ndarray], seeds: Sequence[int] | np.ndarray | None = None) -> None:
        """Show a chunk's metrics, by name [R, updates], of the runs with these seeds."""
        steps = metrics["env_steps"][:, -1]
        now, taken = time.monotonic(), float(steps.sum())
        self._done = float(np.minimum(steps, self._total).mean())
        note = f"{short(self._done)}/{short(self._total)}  {returns_in_words(last_returns(metrics), seeds)}"
        if self._start is None:
            self._start = now, taken
        elif now > self._start[0]:
            note += f"  {short((taken - self._start[1]) / (now - self._start[0]))}/s"
        self._note = note
        self.say("training")

    def say(self, what: str) -> None:
        """Show the current activity."""
        self._show(what, self._done, self._note)


@contextmanager
def progress_bar(total_steps: int, *, done: int = 0, quiet: bool = False) -> Iterator[ProgressBar]:
    """A progress bar on standard error or in a notebook; nothing is shown if `quiet`, or without a terminal."""
    console = Console(file=unfailing(sys.stderr))
    if console.is_jupyter and not quiet:
        yield ProgressBar(_in_notebook(total_steps), total_steps, done)
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(BAR_WIDTH),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=4,  # a refresh costs about a millisecond, and chunks are rarely shorter
        disable=quiet or not console.is_terminal,
    )
    task = progress.add_task("", total=total_steps, completed=done, note="")

    def show(what: str, completed: float, note: str) -> None:
        progress.update(task, description=what, completed=completed, note=note)

    with progress:
        yield ProgressBar(show, total_steps, done)


def _in_notebook(total_steps: int) -> Show:
    """One line below the cell, updated in place. rich's own bar would need ipywidgets."""
    from IPython.display import display  # installed in every notebook

    handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
    began = time.monotonic(), None

    def show(what: str, completed: float, note: str) -> None:
        nonlocal began
        now, first = time.monotonic(), began[1]
        if note and first is None:
            began = now, completed
        left = (total_steps - completed) * (now - began[0]) / (completed - first) if first and completed > first else 0
        line = f"{what}  {completed / total_steps:4.0%}  {note}" + (f"  {left:.0f} s left" if left else "")
        handle.update({"text/plain": line}, raw=True)

    return show


def returns_in_words(returns: np.ndarray, seeds: Sequence[int] | np.ndarray | None = None) -> str:
    """Mean return over runs, and the worst and the best seed, as in "return 260 (seed 3: 20, seed 5: 500)"."""
    known = np.flatnonzero(np.isfinite(returns))
    if not known.size:
        return "no episode has ended"
    text = f"return {np.mean(returns[known]):.4g}"
    if seeds is None or np.ptp(returns[known]) == 0:
        return text
    ends = known[np.argmin(returns[known])], known[np.argmax(returns[known])]
    return f"{text} ({', '.join(f'seed {seeds[r]}: {returns[r]:.4g}' for r in ends)})"


def short(x: float) -> str:
    """A large number in a few characters: 1_234_567 becomes "1.23M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def last_returns(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """The last return that each run has reported in a chunk, [R]; NaN if no episode has ended."""
    returns = np.where(metrics["active"], metrics["return_mean"], np.nan)
    known = [row[~np.isnan(row)] for row in returns]
    return np.array([row[-1] if row.size else np.nan for row in known])


def last_return(metrics: dict[str, np.ndarray]) -> float:
    """Mean over runs of the last reported return; NaN if no episode has ended."""
    last = last_returns(metrics)
    known = last[~np.isnan(last)]
    return float(np.mean(known)) if known.size else float("nan")
