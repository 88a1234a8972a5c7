"""Text files, as they may be after anything has happened to them: nothing is believed, nothing waits, all is UTF-8."""

import csv
import errno
import io
import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes: neither a pipe, which may keep one waiting, nor a device, which may never end.

    Raises:
      OSError: if it is none, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read()


def read_text(path: Path) -> str:
    """A regular file's text.

    Raises:
      OSError: as `read_bytes`.
      ValueError: for bytes that are no UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig")  # some editors begin a file with a mark


def write_text(path: Path, text: str) -> None:
    """Write a file at once or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
      OSError: as `read_bytes`.
      ValueError: if it is none.
    """
    return _parsed(path, tomllib.loads)


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
      OSError: as `read_bytes`.
      ValueError: if it is none.
    """
    return _parsed(path, json.loads)


def _parsed(path: Path, loads: Callable[[str], Any]) -> Any:
    try:
        return loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, numbers short, empty where there is none.

    >>> csv_text([["update", "loss"], [3, float("nan")], [4, 0.25]])
    'update,loss\\n3,\\n4,0.25\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(x) for x in row] for row in rows])
    return text.getvalue()


def _cell(x: Any) -> Any:
    """A number as short text; empty where there is none."""
    if isinstance(x, (np.floating, float)):
        return "" if np.isnan(x) else f"{x:.7g}"
    return x


class Numbers(NamedTuple):
    """A table of numbers as a file has it: NaN where a cell is empty.

    Attributes:
      header: names of the columns.
      rows: [rows, columns].
      good: the lines that are the header, and rows.
      bad: how many other lines there are, a torn one at the end among them.
    """

    header: list[str]
    rows: np.ndarray
    good: list[bytes]
    bad: int


def numbers(content: bytes, first: Sequence[str]) -> Numbers:
    """The rows of a CSV file that are whole; none where its header does not begin with the columns `first`.

    Args:
      content: of the file.
      first: names of its first columns, of which those in COUNTS hold whole numbers from 0.

    >>> found = numbers(b"seed,loss\\n0,1.5\\n1,\\n2,\\xff\\n0,1,1\\n3,2", ["seed"])
    >>> found.header, found.rows.tolist(), found.good, found.bad
    (['seed', 'loss'], [[0.0, 1.5], [1.0, nan]], [b'seed,loss\\n', b'0,1.5\\n', b'1,\\n'], 3)
    """
    top, *lines = content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True) or [b""]
    header = _header(top, first)
    if not header:
        return Numbers([], np.zeros((0, 0)), [], len(lines) + bool(top))
    counts = [place for place, name in enumerate(first) if name in COUNTS]
    rows, good = [], [top]
    for line in lines:
        row = _row(line, len(header), counts)
        if row is not None:
            rows.append(row)
            good.append(line)
    return Numbers(header, np.array(rows).reshape(-1, len(header)), good, 1 + len(lines) - len(good))


COUNTS = ("update", "env_steps", "seed", "episodes")
"""Columns of whole numbers from 0 that 32 bits hold."""


def _header(line: bytes, first: Sequence[str]) -> list[str]:
    """The names in a table's first line; empty if it is none."""
    try:
        (names,) = csv.reader([line.decode()])
    except (ValueError, csv.Error):
        return []
    whole = line.endswith(b"\n") and names[: len(first)] == list(first) and len(set(names)) == len(names)
    return names if whole else []


def _row(line: bytes, columns: int, counts: Sequence[int]) -> list[float] | None:
    """A line's numbers; None if it is no whole row."""
    cells = line.split(b",")
    if len(cells) != columns or not line.endswith(b"\n"):
        return None
    try:
        row = [float(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError:
        return None
    return row if all(0 <= row[i] < 2**31 and row[i] % 1 == 0 for i in counts) else None
