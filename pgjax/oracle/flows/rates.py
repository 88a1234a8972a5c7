"""Convergence rates fitted to curves, with confidence intervals over problems."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["power", "linear"]
"""gap ≈ C k^−rate, or gap ≈ C exp(−rate k)."""
FLOOR = 1e-11  # relative gap below which curves are rounding


class Rate(NamedTuple):
    """Mean rate over problems, its 95 % interval, and the number of problems."""

    mean: float
    low: float
    high: float
    problems: int


def fitted(steps: ArrayLike, gap: ArrayLike, kind: Kind, share: float = 0.5) -> float:
    """Fit the rate of one curve by least squares, on its last part above rounding error.

    The rate is NaN if fewer than three points remain.
    Args:
      steps: k, [K].
      gap: of the objective, [K]; points after it falls to 1e-11 of its maximum are ignored.
      kind: "power" for −d log gap/d log k, "linear" for −d log gap/dk.
      share: fraction of the range of log k (power) or k (linear) to use.

    >>> k = np.arange(1, 100)
    >>> round(fitted(k, 3.0 / k, "power"), 6)
    1.0
    """
    x, y = np.asarray(steps, float), np.asarray(gap, float)
    x, y = x[x > 0], y[x > 0]
    rounding = y <= FLOOR * np.max(y, initial=0.0)
    if np.any(rounding):  # all later points are rounding too
        x, y = x[: np.argmax(rounding)], y[: np.argmax(rounding)]
    x = np.log(x) if kind == "power" else x
    if len(x):
        late = x >= x[-1] - share * (x[-1] - x[0])
        x, y = x[late], y[late]
    return float(-np.polyfit(x, np.log(y), 1)[0]) if len(x) >= 3 else float("nan")


def over_problems(rates: ArrayLike, level: float = 0.95) -> Rate:
    """Mean and Student interval of the rates of several problems, without NaN."""
    from scipy.special import stdtrit  # imported here, since it is slow to import

    x = np.asarray(rates, float)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return Rate(float(x[0]) if len(x) else float("nan"), float("nan"), float("nan"), len(x))
    margin = float(stdtrit(len(x) - 1, 0.5 + level / 2)) * x.std(ddof=1) / np.sqrt(len(x))
    return Rate(float(x.mean()), float(x.mean() - margin), float(x.mean() + margin), len(x))
