"""Output of an experiment: a figure and a small table, in the folder that `--out` names."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from parts import places
from pgjax.runs.record import files
from pgjax.runs.show import figures


@dataclass(frozen=True)
class Options:
    """Options of every experiment."""

    quick: bool = False
    """Use small sizes to test that the script runs; results are not meaningful."""
    out: Path = field(default_factory=places.results)
    """Folder for the figure and the table."""

    def write(self, name: str, figure: Figure, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        """Write NAME.png and NAME.csv, or NAME-quick.png and NAME-quick.csv in quick mode."""
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.out / (f"{name}-quick" if self.quick else name)
        figures.save(figure, stem.with_suffix(".png"))
        files.write_table(stem.with_suffix(".csv"), columns, rows)
        print(f"wrote {stem}.png and {stem}.csv")
