"""How exactly a loss computes, from the type of what it gives; and the tolerances that follow."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

ROUNDING = 1e-9
"""Relative differences below this are rounding: sums of a few hundred float64 products."""

NEARLY = 1e-6
"""Relations that hold to this, and not to rounding, hold nearly: 1e-8 added to a divisor, say."""

SYMMETRIC = 1e-6
"""Asymmetries below this are errors of the differences that a Jacobian is made of (step 2e-3, fourth order)."""


class Precision(NamedTuple):
    """A type of number, and what is equal in it.

    Attributes:
      name: of the type.
      rounding: relative differences below this are rounding.
      step: of the differences that a Jacobian is made of; 0 where the type is too coarse for any.
      symmetric: asymmetries below this are errors of those differences.
      flat: so are Jacobians below this, beside single estimates: they are 0.
    """

    name: str
    rounding: float
    step: float
    symmetric: float
    flat: float

    @property
    def nearly(self) -> float:
        """Relative differences below this are small enough to say "nearly"."""
        return max(NEARLY, self.rounding)

    @property
    def zero(self) -> float:
        """A mean below this, beside single estimates, is 0."""
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

    A loss may compute in float32 and give a float64 number: then all of them are numbers of float32.

    >>> precision_of(np.array([0.1, 0.3])).name, precision_of(np.array([0.1, 0.3], np.float32).astype(float)).name
    ('float64', 'float32')
    >>> precision_of(np.array([0.0, 0.5])).name  # numbers of any type
    'float64'
    """
    if values.dtype != np.float64:
        return PRECISIONS.get(values.dtype.name, FLOAT64)
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32) == values
    mantissa = np.frexp(values)[0] * 2.0**16
    return PRECISIONS["float32"] if single.all() and (mantissa != np.round(mantissa)).any() else FLOAT64


def coarsest(found: Iterable[Precision]) -> Precision:
    """The one with the largest tolerance."""
    return max(found, key=lambda p: p.rounding)


def coarsest_type(arrays: Iterable[np.ndarray]) -> np.dtype:
    """The shortest floating type among arrays; float64 where there is none.

    >>> coarsest_type([np.zeros(1), np.zeros(1, np.float32), np.zeros(1, int)]).name
    'float32'
    """
    types = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    return min(types, key=lambda t: jnp.finfo(t).nmant, default=np.dtype(np.float64))
