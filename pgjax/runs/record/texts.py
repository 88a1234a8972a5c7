"""Robust reading and atomic writing of text files in UTF-8: CSV, TOML and JSON."""

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
    """The bytes of a regular file; raises OSError for unreadable files, pipes and devices, which could block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return file.read()


def read_text(path: Path) -> str:
    """The text of a regular file; raises OSError as `read_bytes`, and ValueError for invalid UTF-8."""
    return read_bytes(path).decode("utf-8-sig")  # some editors write a byte order mark


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; raises OSError if that fails."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; raises OSError if that fails."""
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises OSError as `read_bytes`, and ValueError for invalid TOML."""
    return _parsed(path, tomllib.loads)


def read_json(path: Path) -> Any:
    """Read a JSON file; raises OSError as `read_bytes`, and ValueError for invalid JSON."""
    return _parsed(path, json.loads)


def _parsed(path: Path, loads: Callable[[str], Any]) -> Any:
    try:
        return loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV text; floats have 7 digits, and NaN is an empty cell.

    >>> csv_text([["update", "loss"], [3, float("nan")], [4, 0.25]])
    'update,loss\\n3,\\n4,0.25\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(x) for x in row] for row in rows])
    return text.getvalue()


def _cell(x: Any) -> Any:
    if isinstance(x, (np.floating, float)):
        return "" if np.isnan(x) else f"{x:.7g}"
    return x


class Numbers(NamedTuple):
    """A table from a CSV file: column names, numbers [rows, columns], valid lines, and number of other lines."""

    header: list[str]
    rows: np.ndarray
    good: list[bytes]
    bad: int


def numbers(content: bytes, first: Sequence[str]) -> Numbers:
    """Parse the valid rows of a CSV file; empty if its header does not begin with the columns `first`.

    Columns of `first` that are in COUNTS must be whole numbers from 0.
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
"""Columns of whole numbers from 0 to 2³¹ − 1."""


def _header(line: bytes, first: Sequence[str]) -> list[str]:
    """Names in the header line of a table; empty if it is invalid."""
    try:
        (names,) = csv.reader([line.decode()])
    except (ValueError, csv.Error):
        return []
    whole = line.endswith(b"\n") and names[: len(first)] == list(first) and len(set(names)) == len(names)
    return names if whole else []


def _row(line: bytes, columns: int, counts: Sequence[int]) -> list[float] | None:
    """Numbers in a line; None if it is not a complete row."""
    cells = line.split(b",")
    if len(cells) != columns or not line.endswith(b"\n"):
        return None
    try:
        row = [float(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError:
        return None
    return row if all(0 <= row[i] < 2**31 and row[i] % 1 == 0 for i in counts) else None
