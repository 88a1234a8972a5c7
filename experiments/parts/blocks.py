"""Sweeps too large for memory: one block of runs after the other, their results a table that grows."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pgjax import counters, sweeps
from pgjax.runs.record.metrics_file import GrowingFile
from pgjax.runs.record.texts import csv_text, read_text
from pgjax.types import Algorithm, SettingError, Trainer


def count(seeds: int, over: Mapping[str, Sequence[float]], block: int) -> int:
    """How many blocks there are.

    Raises:
      SettingError: if a block would hold runs of two settings; for numbers that are no counts.

    >>> count(1000, {"learning_rate": [1e-2, 1e-3]}, 50)
    40
    """
    seeds, block = counters.count("seeds", seeds), counters.count("block", block)
    if seeds % block:
        raise SettingError("block", block, f"must divide the {seeds} seeds")
    return seeds // block * int(np.prod([len(values) for values in over.values()], initial=1))


def trained(
    trainer: Trainer,
    algorithm: Algorithm,
    *,
    seeds: int,
    over: Mapping[str, Sequence[float]],
    total_steps: int,
    block: int,
    first: int = 0,
    updates_per_chunk: int = 4,
) -> Iterator[sweeps.Runs]:
    """The runs of a sweep, `block` seeds of one setting at a time, from block number `first` on.

    All blocks run one compiled program. Memory is that of one block. Runs that take equally long sit together: those of
    a block wait for its last.
    """
    combinations = itertools.product(*over.values())
    work = itertools.product(combinations, range(0, seeds, block))
    for setting, start in itertools.islice(work, first, None):
        one = {name: [value] for name, value in zip(over, setting, strict=True)}
        runs = sweeps.start(trainer, algorithm, seeds=range(start, start + block), over=one)
        for now, _ in sweeps.chunks(trainer, runs, total_steps, updates_per_chunk, donate=True):
            runs = now
        yield runs


class BlockTable:
    """A CSV file with a row for each run, in order; whole blocks stay when it is taken up again, a torn one goes."""

    def __init__(self, path: Path, columns: Sequence[str], block: int):
        """Begin `path`, or take it up after its last whole block.

        Raises:
          SettingError: if it is another table.
          OSError: if it cannot be written.
        """
        header = csv_text([columns])
        lines = read_text(path).splitlines(keepends=True) if path.exists() else []
        if lines and lines[0] != header:
            raise SettingError("out", str(path), f"holds another table: its first line is not {header.strip()}")
        whole = [line for line in lines[1:] if line.endswith("\n")]
        self.blocks = len(whole) // block
        kept = lines[: 1 + self.blocks * block]
        self._file = GrowingFile(path, len("".join(kept).encode()))
        if not lines:
            self._file.append(header)

    def append(self, rows: Sequence[Sequence[float]]) -> None:
        """Write a block's rows, and see that they are on the disk."""
        self._file.append(csv_text(rows))
        self._file.sync()
        self.blocks += 1
