"""Which settings go together; asked before anything compiles."""

from functools import partial

import jax
import jax.numpy as jnp

from pgjax.config import Config
from pgjax.estimators.returns import make_signals
from pgjax.training.dependence import depends_on
from pgjax.training.loss import credit_of, looks_along_time
from pgjax.types import Agent, Algorithm, Environment, SettingError, Signals


def check(environment: Environment, agent: Agent, config: Config, algorithm: Algorithm | None = None) -> None:
    """Refuse settings that contradict each other.

    Raises:
      SettingError: naming the setting, its value and what it contradicts.
    """
    if config.critic != agent.critic:
        raise SettingError("critic", config.critic, f"does not match the agent, whose critic is {agent.critic!r}")
    if config.batch_steps and config.accumulate > 1:
        raise SettingError("batch_steps", config.batch_steps, "cannot be combined with accumulate > 1")
    by_steps = config.shuffle == "steps" and config.minibatches > 1
    if by_steps and agent.memory is not None:
        raise SettingError("shuffle", config.shuffle, "tears apart the sequences of a recurrent policy")
    if algorithm is None:
        return
    signals = _example(environment, agent, config)
    if config.critic == "none" and depends_on(partial(credit_of, algorithm, config), signals, "value"):
        raise SettingError("critic", config.critic, "leaves out V(s), which this method's credit uses")
    if by_steps and looks_along_time(algorithm, signals):
        raise SettingError("shuffle", config.shuffle, "tears apart the products over time of this method's surrogate")
    if algorithm.policy_step is not None:
        _check_policy_step(agent, config)
    if algorithm.momentum is not None and (config.epochs > 1 or config.minibatches > 1):
        raise SettingError("momentum", algorithm.momentum, "needs one pass and one minibatch per batch")


def _check_policy_step(agent: Agent, config: Config) -> None:
    shared = "shared" in jax.eval_shape(agent.init, jax.random.key(0))
    if shared:
        raise SettingError("policy_step", "natural", "needs a policy of its own; here it shares layers with the critic")
    if config.critic == "none" and config.epochs > 1:
        raise SettingError("epochs", config.epochs, "are for the critic here, and there is none")


def _example(environment: Environment, agent: Agent, config: Config) -> Signals:
    """Signals of the right shape, with nothing in them."""
    steps = config.num_steps if config.rollout == "stream" else environment.horizon

    def make() -> Signals:  # never computed: a batch too large for memory must not fail here
        zeros = jnp.zeros((steps, config.num_envs))
        actions = getattr(environment.action_space, "n", 1)
        q = action = None
        if agent.action_value is not None:
            q, action = jnp.zeros((*zeros.shape, actions)), jnp.zeros(zeros.shape, int)
        group = jnp.zeros(config.num_envs, int) if config.group_size > 1 else None
        return make_signals(zeros, action_value=q, action=action, group=group)

    return jax.eval_shape(make)
