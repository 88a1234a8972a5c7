"""How a script ends: by itself, or with one line and an exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pgjax.engine.output import open_output
from pgjax.runs.record.attempts import Incomplete, in_words, say
from pgjax.runs.record.interrupts import Stopped
from pgjax.types import SettingError

_by_command = False


def started_by_command() -> None:
    """Note that the command `pgjax` starts the script of this process; `as_typed` then names scripts that way."""
    global _by_command
    _by_command = True


def as_typed(script: str) -> str:
    """A script as the user starts it: `pgjax NAME` in a process of that command, else `NAME.py`.

    >>> as_typed("train")
    'train.py'
    """
    return f"pgjax {script}" if _by_command else f"{script}.py"


@contextmanager
def one_line() -> Iterator[None]:
    """Let nothing fail that is printed; end with one line and a status: 2 refused, 1 left undone, 128 + n stopped.

    >>> with one_line():
    ...     raise SettingError("seeds", 0, "must be at least 1")
    Traceback (most recent call last):
    SystemExit: 2
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
    except OSError as error:  # a disk that is full, a place that has vanished
        say(f"error: {in_words(error)}")
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
