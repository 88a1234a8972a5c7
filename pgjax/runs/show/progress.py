"""A word on what is done before the progress bar of `pgjax.sweeps.progress`, and after it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from pgjax.engine.output import unfailing


@contextmanager
def doing(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Say on standard error what is going on while it does, where that is a terminal."""
    console = Console(file=unfailing(sys.stderr))
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
