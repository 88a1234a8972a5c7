"""Attempts at writing: what fails is told once, and what is still missing at the end is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgjax.engine import hosts
from pgjax.engine.output import unfailing


class Incomplete(Exception):
    """A run that was carried to its end, but not all of it as it should be."""


def say(line: str) -> None:
    """One line to the user, on standard error."""
    print(line, file=unfailing(sys.stderr), flush=True)


def in_words(error: OSError) -> str:
    """What went wrong with which file, in one line.

    >>> in_words(FileNotFoundError(2, "No such file or directory", "run/metrics.csv"))
    'run/metrics.csv: No such file or directory'
    """
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class Attempts:
    """Attempts at writing. The first failure is told at once, and work goes on; what is still missing is kept."""

    def __init__(self, path: Path):
        """Nothing has failed yet under `path`."""
        self.path = path
        self.missing: dict[str, str] = {}

    def __call__(self, what: str, action: Callable[[], Any]) -> bool:
        """Try an action of the first process that writes `what`; False if it failed."""
        return self.together(what, action) if hosts.is_first() else True

    def together(self, what: str, action: Callable[[], Any]) -> bool:
        """Try an action of every process that writes `what`; False if it failed."""
        try:
            action()
        except OSError as error:
            reason = getattr(error, "strerror", None) or str(error)
            if not self.missing and hosts.is_first():
                say(f"warning: {self.path / what} cannot be written: {reason}; training goes on")
            self.missing[what] = reason
            return False
        self.missing.pop(what, None)
        return True

    def settle(self) -> None:
        """Name what is missing for good.

        Raises:
          Incomplete: if anything is.
        """
        if self.missing and hosts.is_first():
            what = ", ".join(f"{name} ({reason})" for name, reason in self.missing.items())
            raise Incomplete(f"the run is done, but {self.path} lacks {what}; make room, then --resume {self.path}")
