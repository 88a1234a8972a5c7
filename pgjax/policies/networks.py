"""Networks of the library. Only this module, `convolution` and `gru` import flax."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Critic
from pgjax.policies import gru
from pgjax.policies.actions import PolicyKind, outputs
from pgjax.policies.build import check_policy, from_networks
from pgjax.policies.convolution import Convolution
from pgjax.policies.observations import default_features, image_leaves, leaves
from pgjax.policies.products import product
from pgjax.types import Agent, Environment, SettingError

NetworkKind = Literal["auto", "mlp", "cnn"]
MemoryKind = Literal["none", "gru", "lstm"]
CELLS = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}  # a GRU's halves are in `gru`, with the same parameters


class MLP(nn.Module):
    """Dense tanh layers and a linear head with gain `head_scale`, orthogonally initialised (0 outputs: no head).

    `layer_norm` normalises each layer before its tanh. `dropout` is the fraction of units dropped when a key is given.
    """

    hidden: Sequence[int]
    outputs: int
    head_scale: float
    layer_norm: bool = False
    dropout: float = 0.0

    @property
    def takes_key(self) -> bool:
        """Whether the output depends on a key."""
        return self.dropout > 0

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """[..., features] -> [..., outputs]."""
        leading = x.shape[:-1]
        if x.ndim > 2:  # with one axis of rows, the gradient of a kernel is one plain matrix product
            x = x.reshape(-1, x.shape[-1])
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)), dot_general=product)(x)
            x = nn.tanh(nn.LayerNorm()(x) if self.layer_norm else x)
            if self.dropout and key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - self.dropout, x.shape)
                x = jnp.where(kept, x / (1 - self.dropout), 0.0)
        if self.outputs:
            init = nn.initializers.orthogonal(self.head_scale)
            x = nn.Dense(self.outputs, kernel_init=init, dot_general=product)(x)
        return x.reshape(*leading, x.shape[-1])


class CNN(nn.Module):
    """One 3×3 convolution with 16 channels, as MinAtar's own network, then dense layers and the head.

    Each of several images has its own convolution; other inputs go directly to the dense layers.
    """

    hidden: Sequence[int]
    outputs: int
    head_scale: float
    layer_norm: bool = False
    dropout: float = 0.0

    @property
    def takes_key(self) -> bool:
        """Whether the output depends on a key."""
        return self.dropout > 0

    @nn.compact
    def __call__(self, x: Any, key: Array | None = None) -> Array:
        """[..., height, width, channels] -> [..., outputs]; the last part of a tuple may be flat, [..., features]."""
        parts = x if isinstance(x, tuple) else (x,)
        images = [part for part in parts if part.ndim == parts[0].ndim]
        flat = [*(Convolution(name=f"Dense_{i}")(image) for i, image in enumerate(images)), *parts[len(images) :]]
        features = flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)
        return MLP(self.hidden, self.outputs, self.head_scale, self.layer_norm, self.dropout)(features, key)


class Recurrent(nn.Module):
    """A dense tanh layer or a convolution, then a recurrent cell: GRU (Cho et al. 2014) or LSTM (Hochreiter 1997)."""

    width: int
    cell: str | nn.RNNCellBase = "gru"
    images: bool = False
    layer_norm: bool = False
    dropout: float = 0.0

    @property
    def takes_key(self) -> bool:
        """Whether the output depends on a key."""
        return self.dropout > 0

    @property
    def halves(self) -> tuple[nn.Module, nn.Module]:
        """The part without carry, (params, x) -> y, and the rest, (params, carry, y). Both take all parameters."""
        return _Front(self.width, self.cell, self.images, self.layer_norm, self.dropout), _Cell(self.width, self.cell)

    @nn.compact
    def __call__(self, carry: Any, x: Any, key: Array | None = None) -> tuple[Any, Array]:
        """(carry [..., width], [..., features]) -> (carry, [..., width])."""
        x = _layer(self, x, key)
        return _cell(self.cell, self.width)(carry, x)


def _cell(kind: str | nn.RNNCellBase, width: int) -> Any:
    return CELLS[kind](width) if isinstance(kind, str) else kind


def _layer(of: Any, x: Any, key: Array | None) -> Array:
    """The layer before a cell, with parameters in the calling module."""
    if of.images:
        return CNN((of.width,), 0, 1.0, of.layer_norm, of.dropout)(x, key)
    if of.layer_norm or of.dropout:
        return MLP((of.width,), 0, 1.0, of.layer_norm, of.dropout)(x, key)
    return nn.tanh(nn.Dense(of.width, kernel_init=nn.initializers.orthogonal(np.sqrt(2)), dot_general=product)(x))


class _Front(nn.Module):
    """First half of `Recurrent`: the layer and, for a GRU, the products of its gates with the layer's output."""

    width: int
    cell: str | nn.RNNCellBase
    images: bool
    layer_norm: bool
    dropout: float

    @property
    def takes_key(self) -> bool:
        return self.dropout > 0

    @nn.compact
    def __call__(self, x: Any, key: Array | None = None) -> Array:
        x = _layer(self, x, key)
        return gru.InputProducts(self.width, name="GRUCell_0")(x) if self.cell == "gru" else x


class _Cell(nn.Module):
    """Second half of `Recurrent`: the cell."""

    width: int
    cell: str | nn.RNNCellBase
    takes_key = False

    @property
    def along(self) -> Callable | None:
        if self.cell != "gru":
            return None
        return lambda params, *args: gru.along(params["params"]["GRUCell_0"], *args)

    @nn.compact
    def __call__(self, carry: Any, x: Array) -> tuple[Any, Array]:
        if self.cell == "gru":
            return gru.Step(self.width, name="GRUCell_0")(carry, x)
        return _cell(self.cell, self.width)(carry, x)


def make_agent(
    environment: Environment,
    *,
    policy: PolicyKind = "auto",
    network: NetworkKind = "auto",
    hidden: Sequence[int] = (64, 64),
    critic: Critic = "none",
    shared: bool = False,
    memory: MemoryKind | nn.RNNCellBase = "none",
    separate_memory: bool = False,
    layer_norm: bool = False,
    dropout: float = 0.0,
    initial_log_std: float = 0.0,
) -> Agent:
    """Build a policy, and optionally a critic, for an environment's spaces.

    Equal arguments return the same Agent object, unless `memory` is a flax cell.

    Args:
      policy: "categorical" for discrete actions; "gaussian" (clipped to the box) or "squashed" (tanh) for continuous
        ones; "auto" chooses for each part of the action space. Numbers with one bound or none are never clipped
        (`pgjax.estimators.open_boxes`).
      network: "mlp" flattens the observation; "cnn" convolves its images [height, width, channels]; "auto" takes a cnn
        if there are images.
      hidden: widths of the dense layers.
      critic: "state" adds V(s), "action" adds Q(s, a) for one Discrete action.
      shared: share all layers but the last between policy and critic.
      memory: "gru", "lstm" or a flax cell: a recurrent layer of the first width before everything else. "gru" is
        faster than `nn.GRUCell`, with equal results.
      separate_memory: give the critic its own memory; otherwise it reads the policy's.
      layer_norm: normalise each dense layer before its tanh.
      dropout: fraction of units dropped from each dense layer, in training only.
      initial_log_std: initial log σ, in units of half the action box.

    >>> from pgjax import environments
    >>> agent = make_agent(environments.make("CartPole-v1"))
    >>> agent.policy(agent.init(jax.random.key(0)), jnp.zeros(4)).logits.shape
    (2,)
    """
    check_policy(environment, policy, critic)
    leaves(environment)
    hidden = _widths(hidden)
    images = bool(image_leaves(environment))
    _check(environment, network, hidden, critic, shared, memory, separate_memory, dropout, layer_norm, images)
    images = images and network != "mlp"
    make: Any = _agent if isinstance(memory, str) else _agent.__wrapped__  # a cell may not be hashable
    return make(
        environment,
        jnp.result_type(float),
        policy=policy,
        images=images,
        layers=hidden,
        critic=critic,
        shared=shared,
        memory=memory,
        separate_memory=separate_memory,
        layer_norm=layer_norm,
        dropout=dropout,
        initial_log_std=initial_log_std,
    )


@functools.lru_cache(maxsize=256, typed=True)
def _agent(
    environment: Environment,
    numbers_are: Any,
    /,
    *,
    policy: PolicyKind,
    images: bool,
    layers: tuple[int, ...],
    critic: Critic,
    shared: bool,
    memory: MemoryKind | nn.RNNCellBase,
    separate_memory: bool,
    layer_norm: bool,
    dropout: float,
    initial_log_std: float,
) -> Agent:
    """Build the agent; cached, with the default float type as part of the cache key."""
    numbers = outputs(environment.action_space)

    def dense(kind: Callable[..., Any], widths: tuple[int, ...], count: int, scale: float) -> Any:
        return kind(widths, count, scale, layer_norm, dropout)

    def remembering() -> tuple[Any, Any]:
        return Recurrent(layers[0], memory, images, layer_norm, dropout), _carry(memory, layers[0])

    recurrent = memory != "none"
    body: Callable[..., Any] = CNN if images and not recurrent else MLP
    head: Callable[..., Any] = MLP if shared else body
    own = () if shared else layers
    return from_networks(
        environment,
        dense(head, own, numbers, 0.01),
        None if critic == "none" else dense(head, own, numbers if critic == "action" else 1, 1.0),
        critic=critic,
        policy=policy,
        trunk=dense(body, layers, 0, 1.0) if shared else None,
        memory=remembering() if recurrent else None,
        critic_memory=remembering() if separate_memory else None,
        features=default_features(environment, flatten=not images),
        initial_log_std=initial_log_std,
    )


def _carry(memory: str | nn.RNNCellBase, width: int) -> Any:
    """The cell's carry at an episode's start."""
    cell = _cell(memory, width)
    try:
        carry = cell.initialize_carry(jax.random.key(0), (width,))
        jax.eval_shape(lambda key, x: cell.init_with_output(key, carry, x), jax.random.key(0), jnp.zeros(width))
    except Exception as error:  # a user's cell may raise anything
        reason = f"is a cell that cannot read vectors of width {width}: {str(error).splitlines()[0]}"
        raise SettingError("memory", type(cell).__name__, reason) from error
    return carry


def _widths(hidden: Any) -> tuple[int, ...]:
    """Widths of the dense layers as plain integers, or a SettingError."""
    widths: list[Any] = list(hidden) if isinstance(hidden, Iterable) else [None]
    if not all(isinstance(x, int | np.integer) and x >= 1 for x in widths):
        raise SettingError("hidden", hidden, "must be positive whole numbers, such as (64, 64)")
    return tuple(int(width) for width in widths)


def _check(
    environment: Environment,
    network: str,
    hidden: Sequence[int],
    critic: str,
    shared: bool,
    memory: Any,
    separate_memory: bool,
    dropout: Any,
    layer_norm: bool,
    images: bool,
) -> None:
    cell = isinstance(memory, nn.RNNCellBase)
    for field, value, kinds in (("network", network, NetworkKind), ("memory", memory, MemoryKind)):
        if value not in get_args(kinds) and not (field == "memory" and cell):
            or_cell = ", and no flax RNN cell such as nn.GRUCell(64)" if field == "memory" else ""
            raise SettingError(field, value, f"is none of {', '.join(get_args(kinds))}{or_cell}")
    if network == "cnn" and not images:
        shape = getattr(environment.observation, "shape", None)
        raise SettingError("network", network, f"needs images [height, width, channels]; observations are {shape}")
    if not hidden and (shared or memory != "none"):
        raise SettingError("hidden", tuple(hidden), "needs at least one layer for shared=True or a memory")
    if shared and critic == "none":
        raise SettingError("shared", shared, "needs a critic to share with")
    if separate_memory and (memory == "none" or critic == "none" or shared):
        lacks = "a memory" if memory == "none" else "a critic" if critic == "none" else "layers that are not shared"
        raise SettingError("separate_memory", separate_memory, f"needs {lacks}")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.floating) or not 0 <= dropout < 1:
        raise SettingError("dropout", dropout, "must be a number in [0, 1)")
    for field, value in (("dropout", dropout), ("layer_norm", layer_norm)):
        if value and not hidden:
            raise SettingError(field, value, "has no effect without a dense layer; give hidden a width")
