"""Checks that settings are compatible, before anything is compiled."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pgjax.config import Config
from pgjax.environments.base import check_environment
from pgjax.estimators.contracts import PER_STEP, PER_TRAJECTORY, name_of, promises
from pgjax.estimators.returns import make_signals
from pgjax.training.signals import credit_of, target_of
from pgjax.types import Agent, Algorithm, Environment, SettingError, Signals, TrainState, check_algorithm


def check(environment: Environment, agent: Agent, config: Config, algorithm: Algorithm | None = None) -> None:
    """Raise a SettingError if settings contradict each other, with the setting, its value and what it contradicts."""
    if not isinstance(config, Config):
        raise SettingError("config", type(config).__name__, "is not a pgjax.Config; pass recipe.config")
    if algorithm is None:
        check_environment(environment)
    else:
        check_algorithm(algorithm)
    if config.critic != agent.critic:
        raise SettingError("critic", config.critic, f"does not match the agent, whose critic is {agent.critic!r}")
    if config.batch_steps and config.accumulate > 1:
        raise SettingError("batch_steps", config.batch_steps, "cannot be combined with accumulate > 1")
    by_steps = config.shuffle == "steps" and config.minibatches > 1
    if by_steps and agent.memory is not None:
        reason = 'would break up the sequences of a recurrent policy; use "environments"'
        raise SettingError("shuffle", config.shuffle, reason)
    if config.accumulate > 1:
        _check_slices(agent, config, algorithm)
    if algorithm is None:
        return
    signals = _example(environment, agent, config, reference=has_reference(algorithm))
    jax.eval_shape(partial(credit_of, algorithm, config), signals)
    jax.eval_shape(partial(target_of, algorithm), signals)
    if algorithm.value_target is not None and config.critic == "none":
        raise SettingError("critic", config.critic, "needs a critic for value_target to train")
    if by_steps:
        _require(PER_STEP, algorithm, "shuffle", config.shuffle)
    for name, absent in (("diagnostics", 0), ("accumulate", 1)):
        if getattr(config, name) != absent:
            _require(PER_TRAJECTORY, algorithm, name, getattr(config, name))
    if algorithm.control_variate is not None:
        _require(PER_TRAJECTORY, algorithm, "control_variate", name_of(algorithm.control_variate))
        if config.diagnostics and config.num_envs < 2 * config.diagnostics:
            reason = "leaves fewer than 2 trajectories in a group; an optimal baseline needs the others in the group"
            raise SettingError("diagnostics", config.diagnostics, reason)
    if algorithm.policy_step is not None:
        _check_policy_step(agent, config, algorithm)
    _check_reference(agent, config, algorithm)
    if algorithm.momentum is not None and (config.epochs > 1 or config.minibatches > 1):
        raise SettingError("momentum", algorithm.momentum, "needs one pass and one minibatch per batch")


def check_state(state: Any) -> None:
    """Raise a SettingError if `state` belongs to several runs."""
    if hasattr(state, "seeds") or jnp.ndim(state.update):
        reason = "must be the state of one run: pass runs.pick(seed=3), or use jax.vmap(trainer.update)"
        raise SettingError("state", f"of {len(state.seeds if hasattr(state, 'seeds') else state.update)} runs", reason)


def check_params(agent: Agent, params: Any) -> None:
    """Raise a SettingError if `params` belong to several runs, or are a whole training state."""
    if isinstance(params, TrainState) or hasattr(params, "seeds"):
        reason = "is not a parameter tree; pass those of one run, runs.pick(seed=3).params"
        raise SettingError("params", type(params).__name__, reason)
    if agent.init is None:
        return
    expected, given = jax.tree.leaves(jax.eval_shape(agent.init, jax.random.key(0))), jax.tree.leaves(params)
    same_length = len(expected) == len(given) and expected
    if same_length and all(jnp.ndim(x) == y.ndim + 1 for x, y in zip(given, expected, strict=True)):
        reason = "must be those of one run: pass runs.pick(seed=3).params"
        raise SettingError("params", f"of {len(given[0])} runs", reason)


def has_reference(algorithm: Algorithm) -> bool:
    """Whether the method penalises the KL to a reference policy, whose parameters training then stores."""
    return algorithm.reference_loss is not None or algorithm.reference_reward is not None


def steps_per_update(environment: Environment, config: Config) -> int:
    """The largest number of environment steps that one update can take."""
    return config.num_envs * (config.num_steps if config.rollout == "stream" else environment.horizon)


def _require(promise: str, algorithm: Algorithm, field: str, value: object) -> None:
    contribution = algorithm.estimator.contribution
    if not promises(contribution, promise):
        reason = f"splits the batch, but {name_of(contribution)} is not declared @pgjax.{promise}"
        raise SettingError(field, value, reason)


def _check_slices(agent: Agent, config: Config, algorithm: Algorithm | None) -> None:
    reasons = {"running observation statistics, which need the whole batch": agent.observe}
    if algorithm is not None:
        reasons |= {
            "optimal baselines, which need all trajectory gradients": algorithm.control_variate,
            "a KL penalty, which needs all distributions": algorithm.kl_coefficient,
            "a natural or trust-region step, which needs the whole batch": algorithm.policy_step,
        }
    for reason, present in reasons.items():
        if present is not None:
            raise SettingError("accumulate", config.accumulate, f"cannot be combined with {reason}")
    if config.num_envs // config.accumulate % config.group_size:
        raise SettingError(
            "accumulate",
            config.accumulate,
            "splits groups of trajectories; num_envs / accumulate must be a multiple of group_size",
        )


def _check_reference(agent: Agent, config: Config, algorithm: Algorithm) -> None:
    if has_reference(algorithm) and agent.memory is not None and config.rollout == "stream":
        reason = "cannot be combined with a reference policy, whose carry is unknown in the middle of an episode"
        raise SettingError("memory", "in a stream", reason)
    if algorithm.max_mismatch is not None and config.accumulate > 1:
        reason = "simulates the batch with the learner itself, so max_mismatch has no other sampler to correct for"
        raise SettingError("accumulate", config.accumulate, reason)


def _check_policy_step(agent: Agent, config: Config, algorithm: Algorithm) -> None:
    for name in ("target_kl", "momentum"):
        if getattr(algorithm, name) is not None:
            reason = "applies to gradient steps; this method updates the policy by a policy_step"
            raise SettingError(name, getattr(algorithm, name), reason)
    shared = "shared" in jax.eval_shape(agent.init, jax.random.key(0))
    if shared:
        reason = "needs separate policy parameters; here policy and critic share layers or a memory"
        raise SettingError("policy_step", "natural", reason)
    if config.critic == "none":
        for name in ("epochs", "minibatches"):
            if getattr(config, name) > 1:
                raise SettingError(name, getattr(config, name), "needs a critic, because the policy has a policy_step")


def _example(environment: Environment, agent: Agent, config: Config, *, reference: bool) -> Signals:
    """Abstract signals of the right shapes and dtypes."""
    steps = config.num_steps if config.rollout == "stream" else environment.horizon

    def make() -> Signals:  # only traced, because a batch may be too large for memory
        zeros = jnp.zeros((steps, config.num_envs))
        actions = getattr(environment.action_space, "n", 1)
        q = action = None
        if agent.action_value is not None:
            q, action = jnp.zeros((*zeros.shape, actions)), jnp.zeros(zeros.shape, int)
        group = jnp.zeros(config.num_envs, int) if config.group_size > 1 else None
        signals = make_signals(
            zeros,
            action_value=q,
            action=action,
            group=group,
            behaviour_log_prob=zeros,
            reference_log_prob=zeros if reference else None,
        )
        return signals if agent.value is not None else signals._replace(value=None, next_value=None)

    return jax.eval_shape(make)
