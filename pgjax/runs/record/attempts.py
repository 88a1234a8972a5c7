"""Writing files without stopping the run: failures print a warning, and what is missing at the end is reported."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgjax.engine import hosts
from pgjax.engine.output import unfailing


class Incomplete(Exception):
    """A run that has ended, but with missing output or stopped seeds."""


def say(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=unfailing(sys.stderr), flush=True)


def in_words(error: OSError) -> str:
    """The file and the reason of an OSError in one line, such as "run/metrics.csv: No such file or directory"."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class Attempts:
    """Runs writing actions. The first failure prints a warning; `missing` maps names of unwritten files to reasons."""

    def __init__(self, path: Path):
        """Start with nothing missing under `path`."""
        self.path = path
        self.missing: dict[str, str] = {}

    def __call__(self, what: str, action: Callable[[], Any]) -> bool:
        """Run an action that writes `what` in process 0 only; False if it failed."""
        return self.together(what, action) if hosts.is_first() else True

    def together(self, what: str, action: Callable[[], Any]) -> bool:
        """Run an action that writes `what` in every process; False if it failed."""
        try:
            action()
        except OSError as error:
            reason = getattr(error, "strerror", None) or str(error)
            if not self.missing and hosts.is_first():
                say(f"warning: {self.path / what} cannot be written: {reason}; training continues")
            self.missing[what] = reason
            return False
        self.missing.pop(what, None)
        return True

    def settle(self) -> None:
        """Raise Incomplete, naming what is missing and why, if something is."""
        if self.missing and hosts.is_first():
            what = ", ".join(f"{name} ({reason})" for name, reason in self.missing.items())
            reason = f"the run has ended, but {self.path} lacks {what}; free disk space, then --resume {self.path}"
            raise Incomplete(reason)
