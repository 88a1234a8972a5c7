"""The networks that come with the library; the only file that imports flax."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.policies.build import PolicyKind, check_policy, from_networks
from pgjax.policies.observations import default_features
from pgjax.types import Agent, Discrete, Environment, SettingError

NetworkKind = Literal["auto", "mlp", "cnn"]
MemoryKind = Literal["none", "gru"]


class MLP(nn.Module):
    """Dense tanh layers, orthogonal initialisation, and a linear head of gain `head_scale` (0 outputs: no head).

    >>> import jax
    >>> net = MLP(hidden=(8,), outputs=2, head_scale=0.01)
    >>> params = net.init(jax.random.key(0), jnp.ones(3))
    >>> head = params["params"]["Dense_1"]["kernel"]
    >>> net.apply(params, jnp.ones((5, 3))).shape, bool(jnp.allclose(head.T @ head, 0.01**2 * jnp.eye(2), atol=1e-7))
    ((5, 2), True)
    """

    hidden: Sequence[int]
    outputs: int
    head_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., features] -> [..., outputs]."""
        leading = x.shape[:-1]
        if (
            x.ndim > 2
        ):  # one axis of rows: the gradient of a kernel is then one plain matrix product, not a transposed one
            x = x.reshape(-1, x.shape[-1])
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x))
        if self.outputs:
            x = nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.head_scale))(x)
        return x.reshape(*leading, x.shape[-1])


class CNN(nn.Module):
    """One 3×3 convolution with 16 channels (MinAtar's own network), then dense layers and the head.

    Written as a matrix product over patches: images are small, and a convolution's gradient on a CPU, or the grouped
    convolution that many networks side by side become, is many times slower than its arithmetic.

    >>> import jax
    >>> net, images = CNN(hidden=(8,), outputs=6, head_scale=0.01), jnp.ones((5, 10, 10, 4))
    >>> params = net.init(jax.random.key(0), images[0])
    >>> params["params"]["Dense_0"]["kernel"].shape, net.apply(params, images).shape  # 3 · 3 · 4 inputs, 16 channels
    ((36, 16), (5, 6))
    """

    hidden: Sequence[int]
    outputs: int
    head_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., height, width, channels] -> [..., outputs]."""
        height, width = x.shape[-3] - 2, x.shape[-2] - 2
        shifted = [x[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifted, axis=-1).reshape(-1, 9 * x.shape[-1])
        features = nn.relu(nn.Dense(16, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(patches))
        return MLP(self.hidden, self.outputs, self.head_scale)(features.reshape(*x.shape[:-3], -1))


class GRU(nn.Module):
    """A dense tanh layer into a gated recurrent unit of the same width. Cho et al. 2014.

    >>> import jax
    >>> net, carry = GRU(4), jnp.zeros((5, 4))
    >>> params = net.init(jax.random.key(0), carry, jnp.ones((5, 3)))
    >>> carry, features = net.apply(params, carry, jnp.ones((5, 3)))
    >>> features.shape, bool((carry == features).all())
    ((5, 4), True)
    """

    width: int

    @nn.compact
    def __call__(self, carry: Array, x: Array) -> tuple[Array, Array]:
        """(carry [..., width], [..., features]) -> (carry, [..., width])."""
        x = nn.tanh(nn.Dense(self.width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x))
        return nn.GRUCell(self.width)(carry, x)


def make_agent(
    environment: Environment,
    *,
    policy: PolicyKind = "auto",
    network: NetworkKind = "auto",
    hidden: Sequence[int] = (64, 64),
    critic: Critic = "none",
    shared: bool = False,
    memory: MemoryKind = "none",
    initial_log_std: float = 0.0,
) -> Agent:
    """Build a policy, and a critic if asked, that fit an environment's spaces.

    Args:
      environment: gives the shapes.
      policy: "categorical" for discrete actions; "gaussian" (clipped to the box) or "squashed" (tanh) for continuous
        ones; "auto" takes categorical or gaussian.
      network: "mlp" flattens the observation; "cnn" convolves images [height, width, channels]; "auto" looks at it.
      hidden: widths of the dense layers.
      critic: "state" adds V(s), "action" Q(s, a) for discrete actions.
      shared: whether the critic shares all layers but the last with the policy; else it has a network of its own.
      memory: "gru" puts a recurrent unit of the first width in front of everything.
      initial_log_std: log σ at the start, in units of half the action box.

    Raises:
      SettingError: where policy or network and environment do not fit.

    >>> import jax
    >>> from pgjax import environments
    >>> agent = make_agent(environments.make("CartPole-v1"))
    >>> agent.policy(agent.init(jax.random.key(0)), jnp.zeros(4)).logits.shape
    (2,)
    """
    check_policy(environment, policy, critic)
    shape = getattr(environment.observation, "shape", ())
    image = len(shape) == 3 and min(shape[:2]) >= 3 and environment.num_categories is None  # as large as the kernel
    _check(environment, network, hidden, critic, shared, memory, image)
    cnn = memory == "none" and (network == "cnn" or (network == "auto" and image))
    body: Callable[..., Any] = CNN if cnn else MLP
    space = environment.action_space
    outputs = space.n if isinstance(space, Discrete) else int(np.prod(space.shape))
    layers, own = tuple(hidden), () if shared else tuple(hidden)
    head: Callable[..., Any] = MLP if shared else body
    return from_networks(
        environment,
        head(own, outputs, 0.01),
        None if critic == "none" else head(own, outputs if critic == "action" else 1, 1.0),
        critic=critic,
        policy=policy,
        trunk=body(layers, 0, 1.0) if shared else None,
        memory=(GRU(layers[0]), jnp.zeros(layers[0])) if memory == "gru" else None,
        features=default_features(environment, flatten=not cnn),
        initial_log_std=initial_log_std,
    )


def _check(
    environment: Environment,
    network: str,
    hidden: Sequence[int],
    critic: str,
    shared: bool,
    memory: str,
    image: bool,
) -> None:
    for field, value, kinds in (("network", network, NetworkKind), ("memory", memory, MemoryKind)):
        if value not in get_args(kinds):
            raise SettingError(field, value, f"is none of {', '.join(get_args(kinds))}")
    if network == "cnn" and not image:
        shape = getattr(environment.observation, "shape", None)
        raise SettingError("network", network, f"needs images [height, width, channels]; observations are {shape}")
    if network == "cnn" and memory == "gru":
        raise SettingError("memory", memory, "cannot be combined with network cnn")
    if any(width < 1 for width in hidden):
        raise SettingError("hidden", tuple(hidden), "must be positive widths")
    if not hidden and (shared or memory == "gru"):
        raise SettingError("hidden", tuple(hidden), "needs at least one layer to share or to remember with")
    if shared and critic == "none":
        raise SettingError("shared", shared, "needs a critic to share with")
