"""Delightful policy gradient: each term is gated by advantage times surprisal."""

import jax
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.returns import log_prob
from pgjax.types import Credit, Signals, as_partial


def delightful(credit: Credit, temperature: ArrayLike = 1.0) -> Partial:
    """Credit multiplied by a gate, Ψ_t σ(χ_t/η) with χ_t = Ψ_t · (−log π_θ(a_t|s_t)); itself a credit.

    Ψ = `credit` should be an advantage; η is `temperature`. The gate passes unlikely actions with positive advantage
    and suppresses unlikely ones with negative advantage. It is not differentiated. It uses log π_θ at the current
    parameters, so it is recomputed for every pass over a batch. For continuous actions, log π_θ is a log-density.
    **Biased** at every finite η, even with infinitely many samples; as η → ∞ the gate tends to 1/2. Osband 2026.
    https://arxiv.org/abs/2603.14608

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
