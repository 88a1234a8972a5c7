"""Places that an experiment writes to when its work is done: found to be writable, or refused, before it begins."""

import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from pgjax.types import SettingError


def check(options: Any) -> None:
    """Check the places among options: `json`, `table`, and `out`, a file if it has a suffix, else a folder.

    Raises:
      SettingError: naming the first that cannot be written.
    """
    for field in fields(options):
        place = getattr(options, field.name)
        if isinstance(place, Path) and field.name in ("json", "table", "out"):
            (check_folder if field.name == "out" and not place.suffix else check_file)(field.name, place)


def check_folder(field: str, folder: Path) -> None:
    """Refuse a folder in which no file can be written, or which cannot be made.

    Raises:
      SettingError: with the reason.

    >>> check_folder("out", Path("/dev/null/results"))
    Traceback (most recent call last):
    pgjax.types.SettingError: out: '/dev/null/results' cannot be written: Not a directory
    """
    try:
        there = folder
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1))
    except OSError as error:
        raise SettingError(field, str(folder), f"cannot be written: {error.strerror}") from error


def check_file(field: str, path: Path) -> None:
    """Refuse a file that cannot be written; what it holds stays.

    Raises:
      SettingError: with the reason.

    >>> check_file("json", Path("/dev/full"))
    Traceback (most recent call last):
    pgjax.types.SettingError: json: '/dev/full' cannot be written: No space left on device
    """
    if not os.path.lexists(path):
        check_folder(field, path.parent)
        return
    if path.is_file():  # it is replaced
        check_folder(field, path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # a pipe without a reader would wait
        try:
            if not path.is_file():
                os.write(handle, b"")
        finally:
            os.close(handle)
    except OSError as error:
        raise SettingError(field, str(path), f"cannot be written: {error.strerror}") from error
