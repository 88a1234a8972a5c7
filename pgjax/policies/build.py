"""Build an `Agent` from networks: any pair of pure functions `init(key, x)` and `apply(params, x)`."""

from collections.abc import Callable
from typing import Any, Protocol, get_args

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.config import Critic
from pgjax.estimators.distributions import Distribution
from pgjax.policies.actions import PolicyKind, check_policy_kind, continuous, distribution, outputs
from pgjax.policies.initialisation import one_at_a_time
from pgjax.policies.inputs import Inputs, Trunk, apply, reader, takes_key
from pgjax.policies.observations import default_features
from pgjax.spaces import Box, Discrete, is_part
from pgjax.types import Agent, Environment, Halves, KeyData, Keyed, Memory, Params, SettingError, SharedLayers


class Network(Protocol):
    """Interface of a network; a flax linen module satisfies it. A network that draws random numbers, such as dropout,
    takes a last argument `key` in `apply` and is then applied to one row at a time. In training the key is the same
    whenever the probability of a step is computed; in evaluation it is None.
    """

    def init(self, key: Array, x: Any, /) -> Params:
        """Parameters for an example input."""
        ...

    def apply(self, params: Params, x: Any, /) -> Any:
        """[..., features] -> [..., outputs]."""
        ...


class RecurrentNetwork(Protocol):
    """Interface of a network with a carry along an episode."""

    def init(self, key: Array, carry: Any, x: Any, /) -> Params:
        """Parameters for an example carry and input."""
        ...

    def apply(self, params: Params, carry: Any, x: Any, /) -> tuple[Any, Any]:
        """(carry, [..., features]) -> (carry, [..., outputs])."""
        ...

    # An optional attribute `halves` is a network (params, x) -> y and a recurrent one (params, carry, y), which take
    # the same parameters and together equal this network. The first is computed for all steps of a batch at once. The
    # second may have a method `along`, all of its steps in one loop, with the network's parameters in place of the
    # agent's: `pgjax.types.Halves.along`.


def from_networks(
    environment: Environment,
    actor: Network,
    critic_network: Network | None = None,
    *,
    critic: Critic = "none",
    policy: PolicyKind = "auto",
    trunk: Network | None = None,
    memory: tuple[RecurrentNetwork, Any] | None = None,
    critic_memory: tuple[RecurrentNetwork, Any] | None = None,
    features: Callable[[Any], Any] | None = None,
    initial_log_std: float = 0.0,
) -> Agent:
    """Build an agent from your own networks.

    Args:
      actor: outputs one logit per choice and the mean of each continuous number (σ is a parameter), part by part.
      critic_network: outputs V [..., 1], or Q [..., actions].
      critic: what the critic network outputs: "state" (V), "action" (Q) or "none".
      policy: as in `make_agent`.
      trunk: layers before both actor and critic; their parameters are in the group "shared".
      memory: a recurrent network before all of these, and its carry at an episode's start.
      critic_memory: the same for the critic alone; without it the critic reads the features of `memory`.
      features: observation -> input of the first network; default `pgjax.policies.observations.default_features`.
      initial_log_std: initial log σ, in units of half the action box.

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
        raise SettingError(
            "critic", critic, "needs a critic_network, and critic_network needs a critic other than 'none'"
        )
    _check_critic_memory(memory, critic_network, critic_memory, trunk)
    memory, critic_memory = _with_strong_carry(memory), _with_strong_carry(critic_memory)
    space, read = environment.action_space, reader(environment, features or default_features(environment))
    with jax.ensure_compile_time_eval():  # an agent may be used after the trace in which it is built
        example = read(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), environment.observation))
    owner = (
        "policy" if critic == "none" or critic_memory is not None else "shared"
    )  # the parameter group of memory and trunk
    numbers, sigmas = outputs(space), continuous(space)

    def init(key: Array) -> Params:
        keys, x = jax.random.split(key, 4), example.policy
        params: dict[str, Any] = {"policy": {}, "value": {}}
        if memory is not None:
            network, carry = memory
            params.setdefault(owner, {})["memory"] = network.init(keys[2], carry, x)
            x = network.apply(params[owner]["memory"], carry, x)[1]
        if trunk is not None:
            params.setdefault(owner, {})["trunk"] = trunk.init(keys[3], x)
            x = trunk.apply(params[owner]["trunk"], x)
        params["policy"]["net"] = actor.init(keys[0], x)
        if sigmas:
            params["policy"]["log_std"] = jnp.full(sigmas, initial_log_std, jnp.float32)
        if critic_memory is not None:
            network, carry = critic_memory
            memory_params = network.init(keys[3], carry, example.critic)
            x = network.apply(memory_params, carry, example.critic)[1]
            params["value"] = {"memory": memory_params, "net": critic_network.init(keys[1], x)}  # type: ignore[union-attr]
        elif critic_network is not None:
            params["value"] = critic_network.init(keys[1], x)
        return params

    def inputs(seen: Any) -> Inputs:
        if isinstance(seen, Inputs):
            return seen
        return read(seen) if memory is None else Inputs(seen, seen, (None,) * len(example.masks))

    def after_trunk(params: Params, seen: Any) -> Trunk:
        if isinstance(seen, Trunk):
            return seen
        given = inputs(seen)
        x = given.policy
        if trunk is not None:
            x = apply(trunk, "trunk", params[owner]["trunk"], x, key=given.key)
        return Trunk(x, given.masks, given.key)

    def output(params: Params, seen: Any) -> Any:
        given = after_trunk(params, seen)
        return apply(actor, "actor", params["policy"]["net"], given.output, key=given.key)

    def act(params: Params, seen: Any) -> Distribution:
        log_std = params["policy"]["log_std"] if sigmas else None
        given = after_trunk(params, seen)
        return distribution(space, policy, output(params, given), log_std, given.masks)

    def values(params: Params, seen: Any) -> Array:
        if critic_memory is not None:
            given = inputs(seen)
            return apply(critic_network, "critic", params["value"]["net"], given.critic, key=given.key)
        given = after_trunk(params, seen)
        return apply(critic_network, "critic", params["value"], given.output, key=given.key)

    def mean_action_value(params: Params, seen: Any) -> Array:
        probabilities = jnp.exp(act(params, seen).log_probs)  # type: ignore[attr-defined]
        return jnp.sum(probabilities * values(params, seen), axis=-1)

    def state_value(params: Params, seen: Any) -> Array:
        return values(params, seen).squeeze(-1)

    value = {"none": None, "state": state_value, "action": mean_action_value}[critic]
    action_value = values if critic == "action" else None
    agent = Agent(
        init=jax.jit(one_at_a_time(init)),
        policy=act,
        value=value,
        action_value=action_value,
        memory=None if memory is None else _memory(memory, critic_memory, owner, read),
        shared=None if trunk is None else SharedLayers(after_trunk, (act, value, action_value)),
        takes_key=any(
            takes_key(x) for x in (actor, critic_network, trunk, *(m[0] for m in (memory, critic_memory) if m))
        ),
    )
    heads = {"actor": (actor, output, numbers)}
    if critic_network is not None:
        heads["critic"] = critic_network, values, numbers if critic == "action" else 1
    _check_outputs(environment, agent, heads)
    return agent


def _check_critic_memory(memory: Any, critic_network: Any, critic_memory: Any, trunk: Any) -> None:
    if critic_memory is None:
        return
    name = type(critic_memory[0]).__name__
    if memory is None or critic_network is None:
        raise SettingError("critic_memory", name, "needs a policy memory and a critic")
    if trunk is not None:
        raise SettingError("critic_memory", name, "cannot be combined with layers that policy and critic share")


def _check_outputs(environment: Environment, agent: Agent, heads: dict[str, tuple[Network, Callable, int]]) -> None:
    """Check shapes by tracing all networks on one observation and on a batch [2, 3]; nothing is computed. `heads` gives
    for actor and critic the network, a function (params, input) -> output, and the required output size.
    """

    def trace(key: Array) -> None:
        params = agent.init(key)
        for batch in ((), (2, 3)):
            x = jax.tree.map(lambda s, batch=batch: jnp.zeros((*batch, *s.shape), s.dtype), environment.observation)
            if agent.takes_key:
                x = Keyed(x, KeyData.of(jax.random.split(key, batch)))
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
        raise SettingError(name, type(network).__name__, f"returns {what}{batch}; needs floats {list(wanted)}")


def _remembered(memory: Memory, params: Params, observation: Any, batch: tuple[int, ...]) -> Any:
    """The features of a first step, after a check that the carry keeps its shapes."""
    before = jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), memory.initial)
    given = memory.step(params, before, observation)
    _check_step(given)
    after, features = given
    shapes = [jax.tree.map(lambda x: f"{jnp.asarray(x).dtype}{list(jnp.shape(x))}", tree) for tree in (after, before)]
    if shapes[0] != shapes[1]:
        reason = f"is the carry after a step; must have the shapes of the initial carry, {shapes[1]}"
        raise SettingError("memory", shapes[0], reason)
    return features


def _memory(
    memory: tuple[RecurrentNetwork, Any],
    critic_memory: tuple[RecurrentNetwork, Any] | None,
    owner: str,
    read: Callable[[Any], Inputs],
) -> Memory:
    """One memory for policy and critic, or one for each, as a step and the part that needs no carry."""
    initial = memory[1] if critic_memory is None else (memory[1], critic_memory[1])
    front, cell = _halves(memory[0])
    critic_front, critic_cell = (None, None) if critic_memory is None else _halves(critic_memory[0])

    def encode(params: Params, observation: Any) -> Inputs:
        given = read(observation)
        policy, critic = given.policy, given.critic
        if front is not None:
            policy = apply(front, "memory", params[owner]["memory"], policy, key=given.key)
        if critic_front is not None:
            critic = apply(critic_front, "critic_memory", params["value"]["memory"], critic, key=given.key)
        return given._replace(policy=policy, critic=critic)

    def joined(features: Any, critic_features: Any, given: Inputs) -> Any:
        """Features alone where policy and critic read nothing else."""
        if critic_memory is None and given.key is None and not any(m is not None for m in given.masks):
            return features
        return Inputs(features, critic_features, given.masks, given.key)

    def rest(params: Params, carry: Any, given: Inputs) -> tuple[Any, Any]:
        before, before_critic = carry if critic_memory is not None else (carry, None)
        out = apply(cell, "memory", params[owner]["memory"], before, given.policy, key=given.key)
        _check_step(out)
        if critic_memory is None:
            return out[0], joined(out[1], out[1], given)
        x = before_critic, given.critic
        critic_out = apply(critic_cell, "critic_memory", params["value"]["memory"], *x, key=given.key)
        _check_step(critic_out)
        return (out[0], critic_out[0]), joined(out[1], critic_out[1], given)

    def step(params: Params, carry: Any, observation: Any) -> tuple[Any, Any]:
        return rest(params, carry, encode(params, observation))

    pairs = [(front, cell)] if critic_memory is None else [(front, cell), (critic_front, critic_cell)]
    loops = [_loop(*pair) for pair in pairs]
    trees = [(owner, "memory"), ("value", "memory")]

    def along(params: Params, initial: Any, first: Any, given: Inputs, ended: Array) -> tuple[Any, Any]:
        carries = [(initial, first)] if critic_memory is None else list(zip(initial, first, strict=True))
        inputs = given.policy, given.critic
        out = [
            loop(params[group][name], *carry, x, ended)
            for loop, (group, name), carry, x in zip(loops, trees, carries, inputs, strict=False)
        ]
        after = out[0][0] if critic_memory is None else tuple(carry for carry, _ in out)
        return after, joined(out[0][1], out[-1][1], given)

    has_loops = all(loop is not None for loop in loops)
    return Memory(initial, step, Halves(encode, rest, along if has_loops else None, step))


def _loop(front: Any, cell: Any) -> Any:
    """The loop of a network's second half; None without halves, without a loop, or if its steps take a key."""
    return None if front is None or takes_key(cell) else getattr(cell, "along", None)


def _halves(network: Any) -> tuple[Any, Any]:
    """The part of a recurrent network that needs no carry (or None) and the rest; both take all its parameters."""
    return getattr(network, "halves", (None, network))


def _with_strong_carry(memory: tuple[RecurrentNetwork, Any] | None) -> tuple[RecurrentNetwork, Any] | None:
    """The memory with a carry of arrays that are not weakly typed, as a loop requires."""
    if memory is None:
        return None
    return memory[0], jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), memory[1])


def _check_step(given: Any) -> None:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise SettingError("memory", type(given).__name__, "is returned by a step; needs (carry, features)")


def check_policy(environment: Environment, policy: str, critic: str) -> None:
    """Raise a SettingError if the policy or critic kind is unknown or does not fit the action space."""
    for field, value, kinds in (("policy", policy, PolicyKind), ("critic", critic, Critic)):
        if value not in get_args(kinds):
            raise SettingError(field, value, f"is none of {', '.join(get_args(kinds))}")
    check_policy_kind(environment, policy)
    if critic == "action" and not isinstance(environment.action_space, Discrete):
        reason = f"needs one Discrete action; those of {environment.name} are {_kind(environment.action_space)}"
        raise SettingError("critic", critic, f"{reason}; use a method with a state critic, such as ppo")


def _kind(space: Any) -> str:
    if isinstance(space, Box):
        return "continuous"
    return f"a {type(space).__name__}" if is_part(space) else "several"
