"""Sweeps that do not fit into memory: blocks of runs one after the other, with results appended to a table."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pgjax import counters, sweeps
from pgjax.runs.record.metrics_file import GrowingFile
from pgjax.runs.record.texts import csv_text, read_text
from pgjax.types import Algorithm, SettingError, Trainer


def count(seeds: int, over: Mapping[str, Sequence[float]], block: int) -> int:
    """Number of blocks.

    Raises:
      SettingError: if `block` does not divide the number of seeds, or a number is invalid.
    """
    seeds, block = counters.count("seeds", seeds), counters.count("block", block)
    if seeds % block:
        raise SettingError("block", block, f"must divide the number of seeds, {seeds}")
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
    """Yield the runs of a sweep, `block` seeds of one setting at a time, from block number `first` on.

    All blocks use one compiled program and the memory of one block. A block takes as long as its longest run.
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
    """A CSV file with a row per run; an incomplete last block is dropped when the file is continued."""

    def __init__(self, path: Path, columns: Sequence[str], block: int):
        """Start `path`, or continue it after its last complete block.

        Raises:
          SettingError: if the file is another table.
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
        """Append the rows of a block and flush them to disk."""
        self._file.append(csv_text(rows))
        self._file.sync()
        self.blocks += 1
