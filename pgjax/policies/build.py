"""Networks in, `Agent` out: any pair of pure functions `init(key, x)`, `apply(params, x)` serves as a network."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.estimators.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.types import ACTION_MASK, Agent, Box, Discrete, Environment, Memory, Params, SettingError

PolicyKind = Literal["auto", "categorical", "gaussian", "squashed"]


class Network(Protocol):
    """What a network is here. A flax linen module is one as it stands."""

    def init(self, key: Array, x: Any, /) -> Params:
        """Parameters that fit an example of the input."""
        ...

    def apply(self, params: Params, x: Any, /) -> Any:
        """[..., features] -> [..., outputs]."""
        ...


class RecurrentNetwork(Protocol):
    """A network with a state carried along an episode."""

    def init(self, key: Array, carry: Any, x: Any, /) -> Params:
        """Parameters that fit an example of carry and input."""
        ...

    def apply(self, params: Params, carry: Any, x: Any, /) -> tuple[Any, Any]:
        """(carry, [..., features]) -> (carry, [..., outputs])."""
        ...


def from_networks(
    environment: Environment,
    actor: Network,
    critic_network: Network | None = None,
    *,
    critic: Critic = "none",
    policy: PolicyKind = "auto",
    trunk: Network | None = None,
    memory: tuple[RecurrentNetwork, Any] | None = None,
    features: Callable[[Any], Any] | None = None,
    initial_log_std: float = 0.0,
) -> Agent:
    """An agent of your own networks.

    Args:
      environment: gives the spaces.
      actor: outputs logits, one per discrete action, or the means of continuous ones (their σ is a parameter).
      critic_network: outputs V [..., 1], or Q [..., actions].
      critic: what it outputs: "state" or "action"; "none" without one.
      policy: as in `make_agent`.
      trunk: layers in front of both; their parameters are "shared".
      memory: a recurrent network in front of all that, and its carry at an episode's start.
      features: observation -> what the first network gets; default float32, integers one-hot, an action mask left out.
      initial_log_std: log σ at the start, in units of half the action box.

    Raises:
      SettingError: where critic and network, or policy and action space, do not fit.

    >>> from typing import NamedTuple
    >>> from pgjax import environments
    >>> class Linear(NamedTuple):
    ...     outputs: int
    ...     def init(self, key, x):
    ...         return jnp.zeros((x.shape[-1], self.outputs))
    ...     def apply(self, params, x):
    ...         return x @ params
    >>> agent = from_networks(environments.make("CartPole-v1"), Linear(2))
    >>> agent.policy(agent.init(jax.random.key(0)), jnp.ones(4)).logits.tolist()
    [0.0, 0.0]
    """
    check_policy(environment, policy, critic)
    if (critic_network is None) != (critic == "none"):
        raise SettingError("critic", critic, "does not go with the critic network given (or not given)")
    if memory is not None and isinstance(environment.observation, dict) and ACTION_MASK in environment.observation:
        raise SettingError("memory", type(memory[0]).__name__, f"hides the action mask of {environment.name}")
    space = environment.action_space
    prepare = features or default_features(environment)
    example = prepare(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), environment.observation))
    owner = "shared" if critic != "none" else "policy"  # whose parameters memory and trunk are

    def init(key: Array) -> Params:
        keys, x = jax.random.split(key, 4), example
        params: dict[str, Any] = {"policy": {}, "value": {}}
        if memory is not None:
            network, carry = memory
            params.setdefault(owner, {})["memory"] = network.init(keys[2], carry, x)
            x = network.apply(params[owner]["memory"], carry, x)[1]
        if trunk is not None:
            params.setdefault(owner, {})["trunk"] = trunk.init(keys[3], x)
            x = trunk.apply(params[owner]["trunk"], x)
        params["policy"]["net"] = actor.init(keys[0], x)
        if isinstance(space, Box):
            params["policy"]["log_std"] = jnp.full(space.shape, initial_log_std, jnp.float32)
        if critic_network is not None:
            params["value"] = critic_network.init(keys[1], x)
        return params

    def inputs(params: Params, observation: Any) -> Any:
        x = observation if memory is not None else prepare(observation)
        return x if trunk is None else trunk.apply(params[owner]["trunk"], x)

    def act(params: Params, observation: Any) -> Any:
        out: Any = actor.apply(params["policy"]["net"], inputs(params, observation))
        if isinstance(space, Discrete):
            return Categorical(_masked(out, observation))
        mean = out.reshape(*out.shape[:-1], *space.shape)
        log_std = jnp.broadcast_to(params["policy"]["log_std"], mean.shape)
        low, high = (jnp.broadcast_to(bound, mean.shape) for bound in space.bounds())
        return (SquashedGaussian if policy == "squashed" else Gaussian)(mean, log_std, low, high)

    def values(params: Params, observation: Any) -> Array:
        assert critic_network is not None
        return critic_network.apply(params["value"], inputs(params, observation))

    def mean_action_value(params: Params, observation: Any) -> Array:
        return jnp.sum(jnp.exp(act(params, observation).log_probs) * values(params, observation), axis=-1)

    def state_value(params: Params, observation: Any) -> Array:
        return values(params, observation).squeeze(-1)

    return Agent(
        init=init,
        policy=act,
        value={"none": None, "state": state_value, "action": mean_action_value}[critic],
        action_value=values if critic == "action" else None,
        memory=None if memory is None else _memory(memory, owner, prepare),
    )


def _memory(memory: tuple[RecurrentNetwork, Any], owner: str, prepare: Callable[[Any], Any]) -> Memory:
    network, initial = memory

    def step(params: Params, carry: Any, observation: Any) -> tuple[Any, Any]:
        return network.apply(params[owner]["memory"], carry, prepare(observation))

    return Memory(initial, step)


def _masked(logits: Array, observation: Any) -> Array:
    if not (isinstance(observation, dict) and ACTION_MASK in observation):
        return logits
    return jnp.where(observation[ACTION_MASK] > 0, logits, -1e9)  # finite: 0 · log 0 stays 0 in entropies and KLs


def default_features(environment: Environment, *, flatten: bool = True) -> Callable[[Any], Any]:
    """How an observation becomes a network's input: float32, integers of a Discrete space one-hot, arrays flat.

    A dict or tuple of arrays is flattened and joined; an action mask is left out.

    >>> from pgjax import environments
    >>> image = default_features(environments.make("DeepSea-bsuite:size=4"))(jnp.eye(4))
    >>> numbered = default_features(environments.make("FrozenLake-misc"))(2)
    >>> image.shape, numbered.tolist().index(1.0)
    ((16,), 2)
    """
    template, categories = environment.observation, environment.num_categories

    def one(x: Any, shape: tuple[int, ...]) -> Array:
        x = jnp.asarray(x).astype(jnp.float32)
        return x.reshape(*x.shape[: x.ndim - len(shape)], -1) if flatten else x

    def features(observation: Any) -> Any:
        if categories is not None:
            return jax.nn.one_hot(observation, categories, dtype=jnp.float32)
        if isinstance(template, jax.ShapeDtypeStruct):
            return one(observation, template.shape)
        parts, shapes = observation, template
        if isinstance(template, dict):
            parts, shapes = ({k: v for k, v in d.items() if k != ACTION_MASK} for d in (observation, template))
        leaves = jax.tree.map(lambda x, s: one(x, s.shape), parts, shapes)
        return jnp.concatenate(jax.tree.leaves(leaves), axis=-1)

    return features


def check_policy(environment: Environment, policy: str, critic: str) -> None:
    """Refuse a policy or critic that does not fit the action space."""
    for field, value, kinds in (("policy", policy, PolicyKind), ("critic", critic, Critic)):
        if value not in get_args(kinds):
            raise SettingError(field, value, f"is none of {', '.join(get_args(kinds))}")
    discrete = isinstance(environment.action_space, Discrete)
    if policy == "categorical" and not discrete:
        raise SettingError("policy", policy, f"needs discrete actions; those of {environment.name} are continuous")
    if policy in ("gaussian", "squashed") and discrete:
        raise SettingError("policy", policy, f"needs continuous actions; those of {environment.name} are discrete")
    if critic == "action" and not discrete:
        raise SettingError("critic", critic, f"needs discrete actions; those of {environment.name} are continuous")
    if isinstance(environment.action_space, Box):
        low, high = environment.action_space.bounds()
        if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
            raise SettingError("environment", environment.name, "has an unbounded action box; bound it first")
