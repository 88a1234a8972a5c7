"""A status line for the phases without a progress bar (`pgjax.sweeps.progress`)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from pgjax.engine.output import unfailing


@contextmanager
def doing(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show a status line on standard error during the body, if that is a terminal."""
    console = Console(file=unfailing(sys.stderr))
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(what):
        yield
