"""Exact mean, bias and variance of every estimator on one MDP, for a target and a behaviour policy."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.estimators.advantages import action_advantage, gae, vtrace
from pgjax.estimators.baselines import (
    baselined,
    constant,
    leave_one_out,
    per_time,
    same_batch_mean,
    state_value,
)
from pgjax.estimators.groups import group_standardised
from pgjax.estimators.products import all_action, doubly_robust, product
from pgjax.estimators.reductions import rounding
from pgjax.estimators.returns import discounted_reward, off_policy_reward_to_go, reward_to_go, total_return
from pgjax.estimators.surrogates import clipped_ratio, prefix_product, ratio, score, stopped_prefix, trajectory_weight
from pgjax.oracle.enumeration import (
    MAX_BATCHES,
    Sampling,
    enumerate_trajectories,
    moments,
    trajectory_estimates,
)
from pgjax.oracle.mdp import MDP, exact_gradient, exact_values
from pgjax.types import Estimator


def exact_table(mdp: MDP, target_logits: ArrayLike, behaviour_logits: ArrayLike) -> dict[str, Any]:
    """Number of trajectories, J, ∇J and, for every estimator, its exact mean, relative bias and variance.

    Policies are tabular softmax with logits [S, A]; the factor γ^t is kept. The first estimators sample from the target
    policy, the others from the behaviour policy. Names ending in _2 use batches of two; their variance is multiplied by
    two, and is None if there are too many pairs. The relative bias is ‖mean − ∇J‖ / ‖∇J‖, None where ∇J is 0. Use
    float64.
    """
    theta, log_policy = jnp.asarray(target_logits, float), jax.nn.log_softmax
    gradient = jnp.ravel(exact_gradient(mdp, log_policy, theta))
    found = len(enumerate_trajectories(mdp).probability)

    def row(mean: Array, variance: Array) -> dict[str, Any]:
        bias = relative_bias(mean, gradient, mdp)
        return {"mean": np.asarray(mean).tolist(), "relative_bias": bias, "variance": float(variance)}

    results: dict[str, Any] = {}
    for name, (estimator, sampling) in table_estimators(mdp, theta, jnp.asarray(behaviour_logits, float)).items():
        if found**sampling.batch_size > MAX_BATCHES:
            results[name] = {"mean": None, "relative_bias": None, "variance": None}
            continue
        exact = moments(mdp, estimator, log_policy, theta, sampling)
        results[name] = row(exact.mean, exact.variance * sampling.batch_size)
        if name == "total_return_optimal_baseline":
            results[f"{name}_per_parameter"] = row(*_optimal_per_parameter(mdp, theta)[1])
    return {
        "trajectories": found,
        "objective": float(exact_values(mdp, log_policy(theta)).objective),
        "gradient": np.asarray(gradient).tolist(),
        "estimators": results,
    }


def table_estimators(mdp: MDP, theta: Array, behaviour_logits: Array) -> dict[str, tuple[Estimator, Sampling]]:
    """Every estimator of the exact table by name, with its `Sampling`; critics are exact for the behaviour policy."""
    behaviour = jax.nn.log_softmax(behaviour_logits)
    values, past_values = exact_values(mdp, jax.nn.log_softmax(theta)), exact_values(mdp, behaviour)
    on_policy = Sampling(None, values.value, values.action_value)
    off_policy = Sampling(behaviour, past_values.value, past_values.action_value)
    groups = (
        (_total_return(float(values.objective), _optimal_per_parameter(mdp, theta)[0]), on_policy),
        (_causal(mdp, theta), on_policy),
        (_pairs(), replace(on_policy, batch_size=2)),
        (_off_policy(), off_policy),
    )
    return {name: (estimator, sampling) for group, sampling in groups for name, estimator in group.items()}


def _total_return(expected_return: float, optimum: float) -> dict[str, Estimator]:
    def total_minus(b: float) -> Estimator:
        return product(baselined(total_return, Partial(constant, baseline_constant=b)), score)

    return {
        "total_return": product(total_return, score),
        "total_return_mean_baseline": total_minus(expected_return),
        "total_return_optimal_baseline": total_minus(optimum),
    }


def _causal(mdp: MDP, theta: Array) -> dict[str, Estimator]:
    time_means = Partial(per_time, table=_mean_reward_to_go(mdp, theta))
    return {
        "reward_to_go": product(reward_to_go, score),
        "reward_to_go_time_baseline": product(baselined(reward_to_go, time_means), score),
        "reward_to_go_state_value": product(baselined(reward_to_go, state_value), score),
        "exact_advantage": product(action_advantage, score),
        "all_action": all_action(),
        "dice": product(discounted_reward, prefix_product),
        **{f"gae_{name}": product(Partial(gae, gae_lambda=float(name)), score) for name in ("0", "0.95", "1")},
    }


def _pairs() -> dict[str, Estimator]:
    return {
        "batch_mean_2": product(baselined(total_return, same_batch_mean), score),
        "leave_one_out_2": product(baselined(total_return, leave_one_out), score),
        "grpo_2": product(group_standardised, score),
    }


def _off_policy() -> dict[str, Estimator]:
    return {
        "stale": product(reward_to_go, score),
        "trajectory_is": product(total_return, trajectory_weight),
        "trajectory_is_causal": product(reward_to_go, trajectory_weight),
        "per_decision_is": product(off_policy_reward_to_go, stopped_prefix),
        "per_decision_is_state_value": product(baselined(off_policy_reward_to_go, state_value), stopped_prefix),
        "prefix_is": product(reward_to_go, stopped_prefix),
        "suffix_is": product(off_policy_reward_to_go, ratio),
        "first_order": product(reward_to_go, ratio),
        "first_order_state_value": product(baselined(reward_to_go, state_value), ratio),
        "ppo_clip_0.2": product(baselined(reward_to_go, state_value), Partial(clipped_ratio, clip=0.2)),
        "vtrace_1": product(vtrace, score),
        "doubly_robust": doubly_robust(),
    }


def relative_bias(mean: Array, gradient: Array, mdp: MDP) -> float | None:
    """‖mean − ∇J‖ / ‖∇J‖; None where ∇J is rounding error relative to the rewards of an episode."""
    size = float(jnp.linalg.norm(gradient))
    smallest = float(rounding(mdp.horizon * float(np.abs(mdp.reward).max()), gradient.dtype))
    return float(jnp.linalg.norm(mean - gradient)) / size if size > smallest else None


def _mean_reward_to_go(mdp: MDP, theta: Array) -> Array:
    """E[Q̂_t | alive at t] with the factor γ^t, [T]."""
    log_probs = jax.nn.log_softmax(theta)
    values = exact_values(mdp, log_probs)
    alive = jnp.sum(values.state_law, axis=-1)
    total = jnp.sum(values.state_law * values.value[:-1], axis=-1)
    return mdp.discount ** jnp.arange(mdp.horizon) * jnp.where(alive > 0, total / jnp.where(alive > 0, alive, 1.0), 0.0)


def _optimal_per_parameter(mdp: MDP, theta: Array) -> tuple[float, tuple[Array, Array]]:
    """The optimal scalar baseline of the total return; mean and variance with optimal baselines per parameter."""
    chance, each = trajectory_estimates(mdp, product(total_return, score), jax.nn.log_softmax, theta)
    ones = product(unit_credit, score)
    _, scores = trajectory_estimates(mdp, ones, jax.nn.log_softmax, theta)
    inner, square = chance @ (each * scores), chance @ scores**2
    b = jnp.where(square > 0, inner / jnp.where(square > 0, square, 1.0), 0.0)
    corrected = each - b * scores
    mean = chance @ corrected
    total_square = float(jnp.sum(square))
    optimum = float(jnp.sum(inner)) / total_square if total_square > 0 else 0.0
    return optimum, (mean, chance @ jnp.sum((corrected - mean) ** 2, axis=-1))


def unit_credit(signals: Any) -> Array:
    """Credit 1 for every action, so that the estimate is the score of the trajectory."""
    return jnp.ones_like(signals.reward)
