"""Figures of learning curves, and saving a figure."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pgjax.sweeps.alignment import GRID_POINTS as GRID_POINTS
from pgjax.sweeps.alignment import curve as curve
from pgjax.sweeps.curves import MAX_COLOURS as MAX_COLOURS
from pgjax.sweeps.curves import finish as finish
from pgjax.sweeps.curves import learning_curves as learning_curves


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and close it."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
