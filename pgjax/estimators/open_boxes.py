"""Normals for boxes without bounds, or bounded on one side only."""

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
    """Independent normals u ~ N(mean, exp(log_std)²), each number a of an action made of its own u:

        no bound           a = u
        a lower bound      a = low + log(1 + e^u)
        an upper bound     a = high − log(1 + e^u)
        both               a = centre + half_width · u, clipped to the bounds, as by `Gaussian`

    Near a bound that is large in size, float32 has no numbers as close to it as log(1 + e^u): shift such a box to 0.

    `low` is −inf and `high` inf where there is no bound. Actions are recorded as u. `log_prob` is the density of a in
    the first three rows, that of u in the last. `entropy` is that of the same density.

    >>> d = OpenGaussian(jnp.zeros(1), jnp.zeros(1), low=jnp.array([3.0]), high=jnp.array([jnp.inf]))
    >>> round(float(d.to_environment(jnp.zeros(1))[0]), 4)  # 3 + log 2
    3.6931
    >>> a = jnp.linspace(3.001, 20, 20_000)
    >>> density = jnp.exp(d.log_prob(jnp.log(jnp.expm1(a - 3))[:, None]))
    >>> round(float(jnp.trapezoid(density, a)), 3)
    1.0
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
        """What the environment receives."""
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
    """As `OpenGaussian`, with numbers that have both bounds squashed by tanh, as by `SquashedGaussian`.

    >>> low, high = jnp.array([0.0, -jnp.inf]), jnp.array([4.0, jnp.inf])
    >>> action = OpenSquashedGaussian(jnp.zeros(2), jnp.zeros(2), low, high).to_environment(jnp.array([1.0, 9.0]))
    >>> [round(x, 3) for x in action.tolist()]  # 2 + 2 tanh 1; 9
    [3.523, 9.0]
    """

    __slots__ = ()

    def _both(self, action: Array, low: Array, high: Array) -> Array:
        return SquashedGaussian(self.mean, self.log_std, low, high).to_environment(action)

    def _both_log_slope(self, action: Array) -> Array:
        return log_tanh_slope(action)

    def _both_expected_slope(self) -> Array:
        return expected_log_tanh_slope(self.mean, self.log_std)


def expected_log_sigmoid(mean: Array, log_std: Array) -> Array:
    """E log(1/(1 + e^(−u))) for u ~ N(mean, exp(log_std)²), elementwise: the log-slope of log(1 + e^u).

    With v = u/2, log sigmoid(u) = ½ (log(1 − tanh² v) − 2 log 2 + u), whose mean `expected_log_tanh_slope` gives.

    >>> f"{expected_log_sigmoid(jnp.array(0.0), jnp.array(0.0)):.4f}"
    '-0.8061'
    """
    half = expected_log_tanh_slope(0.5 * mean, log_std - math.log(2))
    return 0.5 * (half - 2 * math.log(2) + mean)
