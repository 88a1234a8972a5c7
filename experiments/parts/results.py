"""What an experiment leaves: a figure and a small table, in the folder that `--out` names."""

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
    """What every experiment can be asked."""

    quick: bool = False
    """Much smaller numbers: shows that the script runs, not what it finds."""
    out: Path = field(default_factory=places.results)
    """Where the figure and the table go."""

    def write(self, name: str, figure: Figure, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        """Write NAME.png and NAME.csv (with "-quick" in quick mode, so that real results stay)."""
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.out / (f"{name}-quick" if self.quick else name)
        figures.save(figure, stem.with_suffix(".png"))
        files.write_table(stem.with_suffix(".csv"), columns, rows)
        print(f"wrote {stem}.png and {stem}.csv")
