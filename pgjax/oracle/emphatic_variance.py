"""Exact mean and variance of emphatic weights, by dynamic programming."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pgjax.oracle.mdp import MDP, exact_values, per_step


def emphatic_law(mdp: MDP, target: Array, behaviour: Array, interest: ArrayLike = 1.0) -> Array:
    """Emphatic state weighting f_t(s) = E_μ[F_t 1(s_t = s)], [T, S], by f_t = d_t^μ i_t + γ P_πᵀ f_{t−1}.

    `target` is log π and `behaviour` is log μ, both [S, A] or [T, S, A]; `interest` is i_t(s), a number or [T, S].
    Source: Sutton, Mahmood & White 2016. https://arxiv.org/abs/1503.04269
    """
    state_probs = exact_values(mdp, behaviour).state_law
    pi = jnp.exp(per_step(mdp, target))

    def forward(arriving: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        fresh, pi_t = now
        mass = fresh + arriving
        return mdp.discount * jnp.einsum("s,sa,sax->x", mass, pi_t, jnp.asarray(mdp.transition)), mass

    return jax.lax.scan(forward, jnp.zeros_like(state_probs[0]), (state_probs * interest, pi))[1]


def emphatic_moments(mdp: MDP, target: Array, behaviour: Array, interest: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Mean and variance of Σ_t F_t ρ_t r_t over trajectories of the behaviour policy. Arguments as in `emphatic_law`.

    The sum is Y_0 of Y_t = i_t G_t + Y_{t+1} with G_t = ρ_t (r_t + γ G_{t+1}). A backward recursion computes E[G],
    E[Y], E[G²], E[GY] and E[Y²] given the state.
    """
    reward, transition, gamma = jnp.asarray(mdp.reward), jnp.asarray(mdp.transition), mdp.discount
    log_pi, log_mu = per_step(mdp, target), per_step(mdp, behaviour)
    mu, rho = jnp.exp(log_mu), jnp.exp(log_pi - log_mu)
    interests = jnp.broadcast_to(jnp.asarray(interest, mu.dtype), mu.shape[:2])

    def backward(carry: tuple[Array, ...], now: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        g, y, gg, gy, yy = (transition @ x for x in carry)  # of the next state, [S, A]
        mu_t, rho_t, i = now

        def mean(x: Array) -> Array:
            return jnp.sum(mu_t * x, axis=-1)

        now_g = mean(rho_t * (reward + gamma * g))
        now_gg = mean(rho_t**2 * (reward**2 + 2.0 * gamma * reward * g + gamma**2 * gg))
        with_next = mean(rho_t * (reward * y + gamma * gy))  # E[G_t Y_{t+1}]
        now_yy = i**2 * now_gg + 2.0 * i * with_next + mean(yy)
        return (now_g, i * now_g + mean(y), now_gg, i * now_gg + with_next, now_yy), None

    zero = jnp.zeros(len(mdp.initial), mu.dtype)
    (_, first, _, _, second), _ = jax.lax.scan(backward, (zero,) * 5, (mu, rho, interests), reverse=True)
    initial = jnp.asarray(mdp.initial)
    return initial @ first, initial @ second - (initial @ first) ** 2
