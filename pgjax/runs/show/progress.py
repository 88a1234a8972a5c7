"""A progress bar: that of sweeps, which the main job shows too; and a word on what is done before and after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from pgjax.sweeps.progress import ProgressBar as ProgressBar
from pgjax.sweeps.progress import last_return as last_return
from pgjax.sweeps.progress import progress_bar as progress_bar


@contextmanager
def doing(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Say on standard error what is going on while it does, where that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
