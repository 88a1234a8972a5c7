"""How fast a curve falls: fitted rates, with intervals over problems."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["power", "linear"]
"""gap ≈ C k^−rate, or gap ≈ C exp(−rate k)."""
FLOOR = 1e-11  # of a gap: what is below is rounding


class Rate(NamedTuple):
    """A mean over problems and its 95 % interval; how many problems it stands on."""

    mean: float
    low: float
    high: float
    problems: int


def fitted(steps: ArrayLike, gap: ArrayLike, kind: Kind, share: float = 0.5) -> float:
    """The rate of one curve, by least squares on the last part of it that is above rounding.

    Args:
      steps: k, [K].
      gap: of the objective, [K]; what comes after it has fallen to 1e-11 of its largest value is left out.
      kind: "power" for −d log gap/d log k, "linear" for −d log gap/dk.
      share: how much of the range of log k (power) or k (linear) counts.

    Returns:
      The rate; not a number where fewer than three points are left.

    >>> k = np.arange(1, 100)
    >>> round(fitted(k, 3.0 / k, "power"), 6), round(fitted(k, 3.0 * 0.9**k, "linear"), 6)
    (1.0, 0.105361)
    """
    x, y = np.asarray(steps, float), np.asarray(gap, float)
    x, y = x[x > 0], y[x > 0]
    rounding = y <= FLOOR * np.max(y, initial=0.0)
    if np.any(rounding):  # what comes back above the floor is rounding too
        x, y = x[: np.argmax(rounding)], y[: np.argmax(rounding)]
    x = np.log(x) if kind == "power" else x
    if len(x):
        late = x >= x[-1] - share * (x[-1] - x[0])
        x, y = x[late], y[late]
    return float(-np.polyfit(x, np.log(y), 1)[0]) if len(x) >= 3 else float("nan")


def over_problems(rates: ArrayLike, level: float = 0.95) -> Rate:
    """Mean and Student interval of the rates of several problems; those that are not numbers are left out.

    >>> rate = over_problems([1.0, 1.2, 0.8])
    >>> round(rate.mean, 3), round(rate.low, 3), round(rate.high, 3), rate.problems
    (1.0, 0.503, 1.497, 3)
    """
    from scipy.special import stdtrit  # here, because importing it takes longer than most of pgjax

    x = np.asarray(rates, float)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return Rate(float(x[0]) if len(x) else float("nan"), float("nan"), float("nan"), len(x))
    margin = float(stdtrit(len(x) - 1, 0.5 + level / 2)) * x.std(ddof=1) / np.sqrt(len(x))
    return Rate(float(x.mean()), float(x.mean() - margin), float(x.mean() + margin), len(x))
