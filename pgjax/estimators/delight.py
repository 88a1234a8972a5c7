"""Delightful policy gradient: each term gated by advantage times surprisal."""

import jax
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.returns import log_prob
from pgjax.types import Credit, Signals, as_partial


def delightful(credit: Credit, temperature: ArrayLike = 1.0) -> Partial:
    """Credit gated by its delight, itself a credit: Ψ_t σ(χ_t/η), χ_t = Ψ_t · (−log π_θ(a_t|s_t)).

    Rare successes pass, rare failures are held back. The gate carries no gradient. **Biased** at every finite η, even
    with infinitely many samples; as η → ∞ the gate is 1/2 everywhere. Reads log π_θ of the taken actions at the current
    parameters, and is computed anew for each pass; of continuous actions it is a log-density.
    Osband 2026. https://arxiv.org/abs/2603.14608

    Args:
      credit: Ψ, an advantage.
      temperature: η.

    >>> import jax.numpy as jnp
    >>> from pgjax import make_signals, reward_to_go
    >>> signals = make_signals([[1.0, -1.0]], behaviour_log_prob=jnp.log(jnp.array([[0.25, 0.25]])))
    >>> [round(x, 3) for x in delightful(reward_to_go)(signals)[0].tolist()]  # σ(± log 4) = 0.8, 0.2
    [0.8, -0.2]
    """
    return Partial(_delightful, as_partial(credit), temperature=temperature)


def _delightful(credit: Credit, signals: Signals, temperature: ArrayLike) -> Array:
    psi = credit(signals)
    return psi * jax.nn.sigmoid(-psi * log_prob(signals) / temperature)
