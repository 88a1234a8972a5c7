"""Normal distributions for action boxes without bounds, or with a bound on one side only."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.estimators.distributions import (
    Gaussian,
    SquashedGaussian,
    Transformed,
    expected_log_tanh_slope,
    log_tanh_slope,
)


class OpenGaussian(Transformed):
    """Independent normals u ~ N(mean, exp(log_std)²), each mapped to one entry a of the action:

        no bound (low = −inf, high = inf)      a = u
        only a lower or only an upper bound    a = low + log(1 + e^u)   or   a = high − log(1 + e^u)
        both                                   a = centre + half_width · u, clipped.

    Actions are recorded as u. `log_prob` and `entropy` refer to the density of a in the first two rows, and to that of
    u in the last, as in `Gaussian`. Near a bound of large magnitude, float32 cannot represent low + log(1 + e^u)
    accurately: shift such a box to 0.

    >>> d = OpenGaussian(jnp.zeros(1), jnp.zeros(1), low=jnp.array([3.0]), high=jnp.array([jnp.inf]))
    >>> round(float(d.to_environment(jnp.zeros(1))[0]), 4)  # 3 + log 2
    3.6931
    """

    __slots__ = ()

    def log_prob(self, action: Array) -> Array:
        """log N(u) − Σ log |da/du|."""
        slope = self._by_bounds(self._both_log_slope(action), jax.nn.log_sigmoid(action), 0.0)
        return self.base.log_prob(action) - jnp.sum(slope, axis=-1)

    def entropy(self) -> Array:
        """H(N) + Σ E log |da/du|."""
        one_bound = expected_log_sigmoid(self.mean, self.log_std)
        return self.base.entropy() + jnp.sum(self._by_bounds(self._both_expected_slope(), one_bound, 0.0), axis=-1)

    def to_environment(self, action: Array) -> Array:
        """The action within the bounds."""
        low, high = (jnp.where(jnp.isfinite(bound), bound, 0.0) for bound in (self.low, self.high))
        step = jax.nn.softplus(action)
        one_bound = jnp.where(jnp.isfinite(self.low), low + step, high - step)
        return self._by_bounds(self._both(action, low, high), one_bound, action)

    def _by_bounds(self, both: Array, one: Array, none: Array | float) -> Array:
        below, above = jnp.isfinite(self.low), jnp.isfinite(self.high)
        return jnp.where(below & above, both, jnp.where(below | above, one, none))

    def _both(self, action: Array, low: Array, high: Array) -> Array:
        return Gaussian(self.mean, self.log_std, low, high).to_environment(action)

    def _both_log_slope(self, action: Array) -> Array:
        return jnp.zeros_like(action)

    def _both_expected_slope(self) -> Array:
        return jnp.zeros_like(self.mean)


class OpenSquashedGaussian(OpenGaussian):
    """`OpenGaussian` in which entries with both bounds are squashed by tanh, as in `SquashedGaussian`."""

    __slots__ = ()

    def _both(self, action: Array, low: Array, high: Array) -> Array:
        return SquashedGaussian(self.mean, self.log_std, low, high).to_environment(action)

    def _both_log_slope(self, action: Array) -> Array:
        return log_tanh_slope(action)

    def _both_expected_slope(self) -> Array:
        return expected_log_tanh_slope(self.mean, self.log_std)


def expected_log_sigmoid(mean: Array, log_std: Array) -> Array:
    """E log sigmoid(u) for u ~ N(mean, exp(log_std)²), elementwise: ½ (E log(1 − tanh²(u/2)) − 2 log 2 + mean)."""
    half = expected_log_tanh_slope(0.5 * mean, log_std - math.log(2))
    return 0.5 * (half - 2 * math.log(2) + mean)
