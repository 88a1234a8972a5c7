"""Checks that output paths can be written before an experiment starts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from pgjax.types import SettingError

SCRIPTS = Path(__file__).resolve().parents[1]


def results() -> Path:
    """Where results go by default: experiments/results at the root of a clone, anywhere else the folder results."""
    return Path("experiments/results" if Path("experiments").resolve() == SCRIPTS else "results")


def check(options: Any) -> None:
    """Check the output paths among options: `json`, `table`, and `out` (a file if it has a suffix, else a folder).

    Raises:
      SettingError: for the first that cannot be written.
    """
    for field in fields(options):
        place = getattr(options, field.name)
        if isinstance(place, Path) and field.name in ("json", "table", "out"):
            if field.name == "out" and not place.suffix:
                check_folder("out", place)
            else:
                check_file(field.name, place, made=field.name != "json")


def check_folder(field: str, folder: Path) -> None:
    """Reject a folder that cannot be created or written.

    Raises:
      SettingError: with the reason.

    >>> check_folder("out", Path("/dev/null/results"))
    Traceback (most recent call last):
    pgjax.types.SettingError: out: '/dev/null/results' cannot be written: Not a directory
    """
    with _refusing(field, folder):
        _try_folder(folder, made=True)


def check_file(field: str, path: Path, *, made: bool = True) -> None:
    """Reject a file that cannot be written; its content is not changed.

    Args:
      field: the setting that names it.
      path: the file.
      made: whether its folder may be created.

    Raises:
      SettingError: with the reason.
    """
    with _refusing(field, path):
        if path.is_file() or not os.path.lexists(path):  # it is replaced or created
            _try_folder(path.parent, made)
        if os.path.lexists(path):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # a pipe without a reader would block
            try:
                if not path.is_file():
                    os.write(handle, b"")
            finally:
                os.close(handle)


def _try_folder(folder: Path, made: bool) -> None:
    """Write a file in a folder, or in the closest existing one above it."""
    while made and not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1))


@contextmanager
def _refusing(field: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingError(field, str(path), f"cannot be written: {error.strerror}") from error
