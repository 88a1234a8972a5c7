"""A live progress bar around a chunked training loop; silent where nobody watches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Shows how far training is, the mean return of the last update, and steps per second over all runs."""

    def __init__(self, progress: Progress, total_steps: int, done: int):
        """Start a bar that is full at `total_steps` environment steps per run, at those that are already done."""
        self._progress, self._total = progress, total_steps
        self._task = progress.add_task("compiling", total=total_steps, completed=done, note="")
        self._start: tuple[float, float] | None = None  # time and steps after the first, compiling, chunk

    def update(self, metrics: dict[str, np.ndarray]) -> None:
        """Show a chunk's metrics, by name [R, updates]."""
        steps = metrics["env_steps"][:, -1]
        now, taken = time.monotonic(), float(steps.sum())
        note = f"return {last_return(metrics):8.2f}"
        if self._start is None:
            self._start = now, taken
        elif now > self._start[0]:
            note += f"   {(taken - self._start[1]) / (now - self._start[0]):,.0f} steps/s"
        done = float(np.minimum(steps, self._total).mean())
        self._progress.update(self._task, completed=done, description="training", note=note)


@contextmanager
def progress_bar(total_steps: int, *, done: int = 0, quiet: bool = False) -> Iterator[ProgressBar]:
    """A bar on standard error; nothing when quiet or when that is not a terminal."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        yield ProgressBar(progress, total_steps, done)


def last_return(metrics: dict[str, np.ndarray]) -> float:
    """Mean over runs of the last return each has reported; NaN while no episode has ended."""
    returns = np.where(metrics["active"], metrics["return_mean"], np.nan)
    known = [row[~np.isnan(row)] for row in returns]
    last = [row[-1] for row in known if row.size]
    return float(np.mean(last)) if last else float("nan")
