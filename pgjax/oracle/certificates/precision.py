"""Floating type of a loss, found from its values, and the tolerances for it."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

ROUNDING = 1e-9
"""Relative differences below this are rounding: sums of a few hundred float64 products."""

NEARLY = 1e-6
"""Relations that hold to this but not to rounding are reported as "nearly": an epsilon of 1e-8 in a divisor, say."""

SYMMETRIC = 1e-6
"""Asymmetries below this are errors of the finite differences (step 2e-3, fourth order)."""


class Precision(NamedTuple):
    """A floating type and its tolerances."""

    name: str  # of the type
    rounding: float  # relative differences below this are rounding errors
    step: float  # step of the finite differences for Jacobians; 0 if the type is too coarse
    symmetric: float  # asymmetries below this are errors of the finite differences
    flat: float  # Jacobians below this, relative to single estimates, are 0

    @property
    def nearly(self) -> float:
        """Relative differences below this are reported as "nearly" equal."""
        return max(NEARLY, self.rounding)

    @property
    def zero(self) -> float:
        """A mean below this, relative to single estimates, is 0."""
        return self.rounding / 1000


FLOAT64 = Precision("float64", ROUNDING, 2e-3, SYMMETRIC, 1e-9)
PRECISIONS = {
    p.name: p
    for p in (
        FLOAT64,
        Precision("float32", 1e-5, 4e-2, 1e-3, 1e-3),
        Precision("float16", 2e-2, 0.0, np.inf, np.inf),
        Precision("bfloat16", 0.2, 0.0, np.inf, np.inf),
    )
}


def precision_of(values: np.ndarray) -> Precision:
    """The precision of a loss, from its values on several batches.

    Detects a loss that computes in float32 and returns float64: all its values are then representable in float32.
    """
    if values.dtype != np.float64:
        return PRECISIONS.get(values.dtype.name, FLOAT64)
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32) == values
    mantissa = np.frexp(values)[0] * 2.0**16
    return PRECISIONS["float32"] if single.all() and (mantissa != np.round(mantissa)).any() else FLOAT64


def coarsest(found: Iterable[Precision]) -> Precision:
    """The precision with the largest tolerance."""
    return max(found, key=lambda p: p.rounding)


def coarsest_type(arrays: Iterable[np.ndarray]) -> np.dtype:
    """The shortest floating type among arrays; float64 if there is none."""
    types = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    return min(types, key=lambda t: jnp.finfo(t).nmant, default=np.dtype(np.float64))
