"""Exact variances of off-policy value estimates for any horizon, by dynamic programming."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.oracle.mdp import MDP, exact_values, per_step


def state_ratios(mdp: MDP, target: Array, behaviour: Array) -> Array:
    """d_t^π(s)/d_t^μ(s), [T, S]; 0 where d_t^μ(s) is 0.

    `target` is log π and `behaviour` is log μ, both [S, A] or [T, S, A].
    """
    here, there = (exact_values(mdp, x).state_law for x in (target, behaviour))
    return jnp.where(there > 0, here / jnp.where(there > 0, there, 1.0), 0.0)


@jax.jit
def per_decision_variance(mdp: MDP, target: Array, behaviour: Array) -> Array:
    """Variance of Σ_t ρ_{1:t} γ^t r_t over trajectories of the behaviour policy. Arguments as in `state_ratios`.

        M_t(s) = E_μ[ρ² (r² + 2 γ r V_{t+1} + γ² M_{t+1})],   variance = E[M_0(s_0)] − J²

    Source: Jiang & Li 2016, theorem 1 without a critic. https://arxiv.org/abs/1511.03722

    >>> from pgjax.oracle import make_mdp
    >>> bandit = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> target, behaviour = (jnp.log(jnp.array([[p, 1.0 - p]])) for p in (0.5, 0.25))
    >>> round(float(per_decision_variance(bandit, target, behaviour)), 4)  # 2² · ¼ − ½²
    0.75
    """
    values = exact_values(mdp, target)
    reward, transition = jnp.asarray(mdp.reward), jnp.asarray(mdp.transition)
    log_pi, log_mu = per_step(mdp, target), per_step(mdp, behaviour)
    weight = jnp.exp(2.0 * log_pi - log_mu)  # μ ρ²

    def backward(moment: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        weight_t, next_value = now
        ahead = 2.0 * mdp.discount * reward * (transition @ next_value) + mdp.discount**2 * (transition @ moment)
        return jnp.sum(weight_t * (reward**2 + ahead), axis=-1), None

    end = jnp.zeros(len(mdp.initial), values.value.dtype)
    second, _ = jax.lax.scan(backward, end, (weight, values.value[1:]), reverse=True)
    return jnp.asarray(mdp.initial) @ second - values.objective**2


@jax.jit
def marginal_variance(mdp: MDP, target: Array, behaviour: Array) -> Array:
    """Variance of Σ_t w_t γ^t r_t over trajectories of the behaviour policy. Arguments as in `state_ratios`.

        w_t = d_t^π(s, a)/d_t^μ(s, a),   f_t = w_t γ^t r_t
        M_t(s) = E_μ[f_t² + 2 f_t m_{t+1} + M_{t+1}],   m_t(s) = E_μ[f_t + m_{t+1}]

    Source: Xie, Ma & Wang 2019. https://arxiv.org/abs/1906.03393
    """
    transition = jnp.asarray(mdp.transition)
    log_pi, log_mu = per_step(mdp, target), per_step(mdp, behaviour)
    factor = (mdp.discount ** jnp.arange(mdp.horizon))[:, None, None]
    earned = factor * state_ratios(mdp, target, behaviour)[..., None] * jnp.exp(log_pi - log_mu) * mdp.reward

    def backward(carry: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (first, second), (probs, f) = carry, now
        ahead, squares = transition @ first, transition @ second
        new = jnp.sum(probs * (f + ahead), axis=-1), jnp.sum(probs * (f**2 + 2.0 * f * ahead + squares), axis=-1)
        return new, None

    end = jnp.zeros(len(mdp.initial), earned.dtype)
    (first, second), _ = jax.lax.scan(backward, (end, end), (jnp.exp(log_mu), earned), reverse=True)
    initial = jnp.asarray(mdp.initial)
    return initial @ second - (initial @ first) ** 2


@partial(jax.jit, static_argnames="of_actions")
def dual_variance(mdp: MDP, target: Array, behaviour: Array, of_actions: bool = False) -> Array:
    """N times the variance of marginal importance sampling with ratio tables fitted to the data, as N → ∞.

        Var V_0(s_0) + Σ_t E_μ[(γ^t w_t(s_t))² Var_μ(ρ_t (r_t + γ V_{t+1}(s_{t+1})) | s_t)]

    With tables over (s, a) (`of_actions`), the variance given s_t is E_μ[ρ_t² Var(γ V_{t+1}(s_{t+1})|s_t, a_t)]. This
    is the smallest variance of a regular estimator without knowledge of the distributions, attained by double
    reinforcement learning. For bounded w it grows at most like T². With tables over s it grows at most like T³, because
    the noise of ρ_t multiplies all later rewards. Other arguments as in `state_ratios`.
    Source: Kallus & Uehara 2020. https://arxiv.org/abs/1908.08526
    """
    values, state_probs = exact_values(mdp, target), exact_values(mdp, behaviour).state_law
    transition, gamma = jnp.asarray(mdp.transition), mdp.discount
    log_pi, log_mu = per_step(mdp, target), per_step(mdp, behaviour)
    weight = (gamma ** jnp.arange(mdp.horizon))[:, None] * state_ratios(mdp, target, behaviour)
    following = jnp.einsum("sax,tx->tsa", transition, values.value[1:])
    spread = gamma**2 * (jnp.einsum("sax,tx->tsa", transition, values.value[1:] ** 2) - following**2)
    second = spread if of_actions else spread + (jnp.asarray(mdp.reward) + gamma * following) ** 2
    given_state = jnp.sum(jnp.exp(2.0 * log_pi - log_mu) * second, axis=-1)
    given_state = given_state if of_actions else given_state - values.value[:-1] ** 2
    start = jnp.asarray(mdp.initial) @ (values.value[0] - values.objective) ** 2
    return start + jnp.sum(state_probs * weight**2 * given_state)
