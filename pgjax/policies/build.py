"""Networks in, `Agent` out: any pair of pure functions `init(key, x)`, `apply(params, x)` serves as a network."""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.estimators.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.policies.observations import default_features, mask_index
from pgjax.types import Agent, Box, Discrete, Environment, Memory, Params, SettingError

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
      features: observation -> what the first network gets; default `pgjax.policies.observations.default_features`.
      initial_log_std: log σ at the start, in units of half the action box.

    Raises:
      SettingError: where critic and network, or policy and action space, do not fit; where a network's outputs have
        another shape, or a memory's carry another structure, than they must.

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
    mask = mask_index(environment)
    if memory is not None and mask is not None:
        raise SettingError("memory", type(memory[0]).__name__, f"hides the action mask of {environment.name}")
    space = environment.action_space
    dimensions = 0 if isinstance(space, Discrete) else math.prod(space.shape)  # flat, whatever the box's shape
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
            params["policy"]["log_std"] = jnp.full(dimensions, initial_log_std, jnp.float32)
        if critic_network is not None:
            params["value"] = critic_network.init(keys[1], x)
        return params

    def inputs(params: Params, observation: Any) -> Any:
        x = observation if memory is not None else prepare(observation)
        return x if trunk is None else trunk.apply(params[owner]["trunk"], x)

    def output(params: Params, observation: Any) -> Any:
        return actor.apply(params["policy"]["net"], inputs(params, observation))

    def act(params: Params, observation: Any) -> Any:
        out = output(params, observation)
        if isinstance(space, Discrete):
            return Categorical(out if mask is None else _masked(out, jax.tree.leaves(observation)[mask]))
        log_std = jnp.broadcast_to(params["policy"]["log_std"], out.shape)
        low, high = (jnp.broadcast_to(bound.reshape(-1), out.shape) for bound in space.bounds())
        return (SquashedGaussian if policy == "squashed" else Gaussian)(out, log_std, low, high)

    def values(params: Params, observation: Any) -> Array:
        assert critic_network is not None
        return critic_network.apply(params["value"], inputs(params, observation))

    def mean_action_value(params: Params, observation: Any) -> Array:
        return jnp.sum(jnp.exp(act(params, observation).log_probs) * values(params, observation), axis=-1)

    def state_value(params: Params, observation: Any) -> Array:
        return values(params, observation).squeeze(-1)

    agent = Agent(
        init=init,
        policy=act,
        value={"none": None, "state": state_value, "action": mean_action_value}[critic],
        action_value=values if critic == "action" else None,
        memory=None if memory is None else _memory(memory, owner, prepare),
    )
    numbers = space.n if isinstance(space, Discrete) else dimensions
    heads = {"actor": (actor, output, numbers)}
    if critic_network is not None:
        heads["critic"] = critic_network, values, numbers if critic == "action" else 1
    _check_outputs(environment, agent, heads)
    return agent


def _check_outputs(environment: Environment, agent: Agent, heads: dict[str, tuple[Network, Callable, int]]) -> None:
    """Trace all networks on one observation and on a batch [2, 3] of them. Nothing is computed.

    Args:
      environment: gives the observations.
      agent: with its `init` and memory.
      heads: for actor and critic the network, what it gives for (params, input), and how many numbers that must be.
    """

    def trace(key: Array) -> None:
        params = agent.init(key)
        for batch in ((), (2, 3)):
            x = jax.tree.map(lambda s, batch=batch: jnp.zeros((*batch, *s.shape), s.dtype), environment.observation)
            if agent.memory is not None:
                x = _remembered(agent.memory, params, x, batch)
            for name, (network, head, numbers) in heads.items():
                _check_output(name, network, head(params, x), (*batch, numbers))

    jax.eval_shape(trace, jax.eval_shape(lambda: jax.random.key(0)))


def _check_output(name: str, network: Network, given: Any, wanted: tuple[int, ...]) -> None:
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if dtype is None or shape != wanted or not jnp.issubdtype(dtype, jnp.floating):
        what = type(given).__name__ if dtype is None else f"{dtype}{list(shape or ())}"
        batch = f" for a batch {list(wanted[:-1])} of observations" if wanted[:-1] else " for one observation"
        raise SettingError(name, type(network).__name__, f"gives {what}{batch}; needs floats {list(wanted)}")


def _remembered(memory: Memory, params: Params, observation: Any, batch: tuple[int, ...]) -> Any:
    """The features of a first step, whose carry must be what it was."""
    before = jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), memory.initial)
    given = memory.step(params, before, observation)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise SettingError("memory", type(given).__name__, "is what it gives; needs (carry, features)")
    after, features = given
    shapes = [jax.tree.map(lambda x: f"{jnp.asarray(x).dtype}{list(jnp.shape(x))}", tree) for tree in (after, before)]
    if shapes[0] != shapes[1]:
        raise SettingError(
            "memory", shapes[0], f"is its carry after a step; needs that of an episode's start, {shapes[1]}"
        )
    return features


def _memory(memory: tuple[RecurrentNetwork, Any], owner: str, prepare: Callable[[Any], Any]) -> Memory:
    network, initial = memory
    initial = jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), initial)  # no weak types in a loop's carry

    def step(params: Params, carry: Any, observation: Any) -> tuple[Any, Any]:
        return network.apply(params[owner]["memory"], carry, prepare(observation))

    return Memory(initial, step)


def _masked(logits: Array, mask: Array) -> Array:
    """Only allowed actions are taken; where none is, all are equally likely."""
    return jnp.where(mask > 0, logits, -1e9)  # finite: 0 · log 0 stays 0 in entropies and KLs


def check_policy(environment: Environment, policy: str, critic: str) -> None:
    """Refuse a policy or critic that does not fit the action space."""
    for field, value, kinds in (("policy", policy, PolicyKind), ("critic", critic, Critic)):
        if value not in get_args(kinds):
            raise SettingError(field, value, f"is none of {', '.join(get_args(kinds))}")
    _check_space(environment)
    discrete = isinstance(environment.action_space, Discrete)
    if policy == "categorical" and not discrete:
        raise SettingError("policy", policy, f"needs discrete actions; those of {environment.name} are continuous")
    if policy in ("gaussian", "squashed") and discrete:
        raise SettingError("policy", policy, f"needs continuous actions; those of {environment.name} are discrete")
    if critic == "action" and not discrete:
        raise SettingError("critic", critic, f"needs discrete actions; those of {environment.name} are continuous")


def _check_space(environment: Environment) -> None:
    """Refuse actions that no policy here takes."""
    space = environment.action_space

    def refuse(reason: str) -> SettingError:
        return SettingError("environment", environment.name, reason)

    if isinstance(space, Discrete):
        if isinstance(space.n, bool) or not isinstance(space.n, int | np.integer) or space.n < 1:
            raise refuse(f"has {space} actions; needs a whole number of them, at least 1")
        return
    if not isinstance(space, Box):
        raise refuse(f"has an action space {space!r}; needs pgjax.types.Discrete or Box")
    try:
        low, high = space.bounds()
    except (TypeError, ValueError):
        raise refuse(f"has an action box of shape {space.shape} with {np.size(space.low)} lower bounds") from None
    bad = np.argwhere(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
    if len(bad):
        at = tuple(map(int, bad[0]))
        between = f"from {low[at]} to {high[at]}" + (f" in dimension {', '.join(map(str, at))}" if at else "")
        replaced = "environment._replace(action_space=Box(low, high, shape))"
        raise refuse(f"has an unbounded or empty action box, {between}; bound it first, as by {replaced}")
