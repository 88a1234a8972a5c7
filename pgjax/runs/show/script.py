"""Exit of a script: one line for an expected error, and the exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pgjax.engine.output import open_output
from pgjax.runs.record.attempts import Incomplete, in_words, say
from pgjax.runs.record.interrupts import Stopped
from pgjax.types import SettingError

_by_command = False


def started_by_command() -> None:
    """Record that the command `pgjax` started this process; `as_typed` then names scripts that way."""
    global _by_command
    _by_command = True


def as_typed(script: str) -> str:
    """A script as the user starts it: `pgjax NAME` in a process of that command, else `NAME.py`."""
    return f"pgjax {script}" if _by_command else f"{script}.py"


@contextmanager
def one_line() -> Iterator[None]:
    """Turn expected errors in the body into one line and an exit status: 2 for an invalid setting, 1 for incomplete
    output or an I/O error, 128 + n for signal n. Printing to a closed output does not raise.
    """
    before = sys.stdout, sys.stderr
    open_output()
    try:
        yield
    except SettingError as error:
        say(f"error: {error}")
        sys.exit(2)
    except Incomplete as error:
        say(f"error: {error}")
        sys.exit(1)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(stopped.code)
    except OSError as error:  # e.g. a full disk
        say(f"error: {in_words(error)}")
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
