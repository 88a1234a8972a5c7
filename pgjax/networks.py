"""Networks behind `Agent`; the only file that imports flax."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.types import Agent, Box, Critic, Discrete, Environment, SettingError

PolicyKind = Literal["auto", "categorical", "gaussian", "squashed"]
NetworkKind = Literal["auto", "mlp", "cnn"]


class MLP(nn.Module):
    """Dense tanh layers, orthogonal initialisation, and a linear head of gain `head_scale`."""

    hidden: Sequence[int]
    outputs: int
    head_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., outputs]."""
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.head_scale))(x)


class CNN(nn.Module):
    """One 3×3 convolution with 16 channels (MinAtar's own network), then dense layers and the head."""

    hidden: Sequence[int]
    outputs: int
    head_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., height, width, channels] -> [..., outputs]."""
        x = nn.relu(nn.Conv(16, (3, 3), padding="VALID", kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x))
        return MLP(self.hidden, self.outputs, self.head_scale)(x.reshape(*x.shape[:-3], -1))


def make_agent(
    environment: Environment,
    *,
    policy: PolicyKind = "auto",
    network: NetworkKind = "auto",
    hidden: Sequence[int] = (64, 64),
    critic: Critic = "none",
    initial_log_std: float = 0.0,
) -> Agent:
    """Build a policy, and a critic of its own if asked, that fit an environment's spaces.

    Args:
      environment: gives the shapes.
      policy: "categorical" for discrete actions; "gaussian" (clipped to the box) or "squashed" (tanh) for continuous
        ones; "auto" takes categorical or gaussian.
      network: "mlp" flattens the observation; "cnn" convolves images [height, width, channels]; "auto" looks at it.
      hidden: widths of the dense layers.
      critic: "state" adds V(s), "action" Q(s, a) for discrete actions, each a network of its own.
      initial_log_std: log σ at the start, in units of half the action box.

    Raises:
      SettingError: where policy or network and environment do not fit.

    >>> from pgjax import environments
    >>> agent = make_agent(environments.make("CartPole-v1"))
    >>> agent.policy(agent.init(jax.random.key(0)), jnp.zeros(4)).logits.shape
    (2,)
    """
    _check(environment, policy, network, hidden, critic)
    cnn = network == "cnn" or (network == "auto" and len(environment.observation.shape) == 3)
    module: Callable[..., nn.Module] = CNN if cnn else MLP
    features, example = _features(environment, flatten=not cnn)
    space = environment.action_space
    outputs = space.n if isinstance(space, Discrete) else int(np.prod(space.shape))
    actor = module(tuple(hidden), outputs, 0.01)
    value_net = module(tuple(hidden), outputs if critic == "action" else 1, 1.0)

    def init(key: Array) -> dict[str, Any]:
        policy_key, value_key = jax.random.split(key)
        params: dict[str, Any] = {"policy": {"net": actor.init(policy_key, example)}, "value": {}}
        if isinstance(space, Box):
            params["policy"]["log_std"] = jnp.full(space.shape, initial_log_std, jnp.float32)
        if critic != "none":
            params["value"] = value_net.init(value_key, example)
        return params

    def act(params: Any, observation: Any) -> Any:
        params = params["policy"]
        out: Any = actor.apply(params["net"], features(observation))
        if isinstance(space, Discrete):
            return Categorical(out)
        mean = out.reshape(*out.shape[:-1], *space.shape)
        log_std, low, high = (jnp.broadcast_to(x, mean.shape) for x in (params["log_std"], *space.bounds()))
        return (SquashedGaussian if policy == "squashed" else Gaussian)(mean, log_std, low, high)

    def value(params: Any, observation: Any) -> Array:
        out: Any = value_net.apply(params["value"], features(observation))
        return out.squeeze(-1)

    def action_value(params: Any, observation: Any) -> Array:
        out: Any = value_net.apply(params["value"], features(observation))
        return out

    def mean_action_value(params: Any, observation: Any) -> Array:
        probabilities = jnp.exp(act(params, observation).log_probs)
        return jnp.sum(probabilities * action_value(params, observation), axis=-1)

    if critic == "action":
        return Agent(init, act, mean_action_value, action_value)
    return Agent(init, act, value if critic == "state" else None)


def _features(environment: Environment, flatten: bool) -> tuple[Callable[[Any], Array], Array]:
    """How an observation becomes the network's float32 input, and an example of one."""
    shape, categories = environment.observation.shape, environment.num_categories

    def features(observation: Any) -> Array:
        if categories is not None:
            return jax.nn.one_hot(observation, categories, dtype=jnp.float32)
        x = jnp.asarray(observation).astype(jnp.float32)
        return x.reshape(*x.shape[: x.ndim - len(shape)], -1) if flatten else x

    return features, features(jnp.zeros(shape, environment.observation.dtype))


def _check(environment: Environment, policy: str, network: str, hidden: Sequence[int], critic: str) -> None:
    kinds_of = (("policy", policy, PolicyKind), ("network", network, NetworkKind), ("critic", critic, Critic))
    for field, value, kinds in kinds_of:
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
    if network == "cnn" and len(environment.observation.shape) != 3:
        shape = environment.observation.shape
        raise SettingError("network", network, f"needs images [height, width, channels]; observations are {shape}")
    if any(width < 1 for width in hidden):
        raise SettingError("hidden", tuple(hidden), "must be positive widths")
