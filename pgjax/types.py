"""The records every part speaks: arrays are time-major [T, N, ...], records are immutable pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

ACTION_MASK = "action_mask"
"""Where a dict observation has this key, actions whose entry is 0 are never taken."""

Params = Any
"""A pytree of arrays. An agent's is `{"policy": ..., "value": ...}`; without a critic `value` is empty."""


class SettingError(ValueError):
    """A setting that cannot work: names the field, the value and the reason in one line.

    >>> str(SettingError("discount", 1.5, "must lie in [0, 1]"))
    'discount: 1.5 must lie in [0, 1]'
    """

    def __init__(self, field: str, value: object, reason: str):
        """Join field, value and reason into the one line a person reads."""
        super().__init__(f"{field}: {' '.join(repr(value).split())} {reason}")


class Transition(NamedTuple):
    """What a rollout records, [T, N, ...]. Rows with `mask` 0 are padding after an episode's end."""

    observation: Any
    action: Array
    log_prob: Array  # log π_θ̄(a_t|s_t) at sampling time: data, never recomputed
    reward: Array  # 0 on padding
    terminated: Array  # the episode ended by itself: nothing follows
    truncated: Array  # the episode was cut by a time limit: the value goes on
    next_observation: Any  # before any reset
    mask: Array  # 1 where an action was taken


class Signals(NamedTuple):
    """What credit is made of, [T, ...]; it carries no gradient. Build it with `pgjax.make_signals`."""

    reward: Array
    continues: Array  # 1 where step t+1 belongs to the same episode
    mask: Array
    discount: Array  # γ
    value: Array  # V(s_t); 0 without a critic
    next_value: Array  # V(s_{t+1}); 0 where the value ends
    log_ratio: Array  # log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t)
    action_value: Array | None = None  # Q̃(s_t, ·), [T, ..., A]
    taken_value: Array | None = None  # Q̃(s_t, a_t)
    group: Array | None = None  # number of the group that the trajectory belongs to


Credit = Callable[[Signals], Array]
"""What each action gets: signals -> Ψ, [T, ...]."""

Surrogate = Callable[[Array, Array, Array], Array]
"""How the policy enters: (log_ratio, credit, continues) -> [T, ...], differentiable in `log_ratio`."""


class Estimator(NamedTuple):
    """A policy-gradient estimator in two stages; `product(credit, surrogate)` makes nearly all of them.

    `credit(signals)` sees the whole batch and is stopped; `contribution(credit, signals, distribution,
    log_ratio)` gives [T, ...] numbers whose sum over time is a trajectory's surrogate. Trajectories meet only in
    the first stage, so the second can be cut into pieces or differentiated trajectory by trajectory.
    """

    credit: Partial
    contribution: Partial


class Algorithm(NamedTuple):
    """A method of the family: what is estimated, how parameters move, and every number it takes.

    A pytree whose leaves are the hyperparameters: `vmap` over a stacked Algorithm is a sweep.
    """

    estimator: Estimator
    optimizer: Partial  # () -> optax.GradientTransformation, built inside the trace
    discount: ArrayLike = 1.0
    entropy_coefficient: ArrayLike | Partial = 0.0  # a number, or a schedule of the update count
    max_grad_norm: ArrayLike = float("inf")
    value_target: Partial | None = None  # Credit that the critic regresses on
    value_coefficient: ArrayLike = 0.5
    value_clip: ArrayLike | None = None  # how far V may move per batch, as PPO's code does it
    kl_coefficient: ArrayLike | None = None  # weight of the penalty KL(π_θ̄ ‖ π_θ) per step
    target_kl: ArrayLike | None = None  # no further step on a batch once the estimated KL is above
    momentum: ArrayLike | None = None  # weight α of the new gradient in a recursive estimate (STORM-PG)
    control_variate: Partial | None = None  # (gradients [N, ...], scores [N, ...]) -> correction
    policy_step: Partial | None = None  # moves the policy in place of the optimiser (`pgjax.estimators.steps`)


def as_partial(function: Callable) -> Partial:
    """A function as a pytree. (Wrapping a Partial once more would hide the numbers bound in it.)"""
    return function if isinstance(function, Partial) else Partial(function)


class Discrete(NamedTuple):
    """An action space of `n` choices."""

    n: int


class Box(NamedTuple):
    """A continuous action space between two bounds of one shape."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds as float32 arrays of the space's shape."""
        return tuple(np.asarray(b, np.float32).reshape(self.shape) for b in (self.low, self.high))  # type: ignore


class Environment(NamedTuple):
    """One environment as two pure functions; `step` never resets by itself.

    Attributes:
      name: what it was made from.
      reset: key -> (observation, state).
      step: (key, state, action) -> (observation, state, reward, terminated, truncated).
      observation: shape and dtype of an observation, or a pytree of them.
      num_categories: how many values an integer observation takes (it is one-hot encoded), else None.
      action_space: Discrete or Box.
      horizon: after how many steps every episode has ended.
    """

    name: str
    reset: Callable[[Array], tuple[Any, Any]]
    step: Callable[[Array, Any, Array], tuple[Any, Any, Array, Array, Array]]
    observation: Any
    num_categories: int | None
    action_space: Discrete | Box
    horizon: int

    def __hash__(self) -> int:
        """By its functions, so that a dict of observations may be part of it."""
        return hash((self.name, self.reset, self.step, self.horizon))


class Memory(NamedTuple):
    """What makes a policy recurrent: a state carried along each episode, from which policy and critic read.

    Attributes:
      initial: what an episode starts with, a pytree.
      step: (params, carry, observation) -> (carry, features); batched over any leading axes. Policy and value then
        act on features in place of observations.
    """

    initial: Any
    step: Callable[[Params, Any, Any], tuple[Any, Any]]

    # An agent is a static argument of compiled functions, and arrays have no hash: this very memory, or another.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Agent(NamedTuple):
    """A policy and an optional critic as pure functions of parameters; any network fits behind it.

    Attributes:
      init: key -> {"policy": params, "value": params, ...}; all functions take this whole tree. What policy and critic
        share is "shared"; "statistics" is never trained.
      policy: (params, observation [..., *shape]) -> distribution over actions.
      value: (params, observation) -> V(s), [...]; None without a critic.
      action_value: (params, observation) -> Q(s, ·), [..., A]; None without an action-value critic, whose `value` is
        the policy's mean of it.
      memory: of a recurrent policy; policy and critic then take its features in place of observations.
      observe: (params, observations [T, N, ...], mask [T, N]) -> params with the batch merged into "statistics".
    """

    init: Callable[[Array], Params]
    policy: Callable[[Params, Any], Any]
    value: Callable[[Params, Any], Array] | None = None
    action_value: Callable[[Params, Any], Array] | None = None
    memory: Memory | None = None
    observe: Callable[[Params, Any, Array], Params] | None = None

    @property
    def critic(self) -> str:
        """Which values it learns, as `Config.critic` calls it."""
        return "action" if self.action_value else "state" if self.value else "none"


class TrainState(NamedTuple):
    """Everything training carries from one update to the next."""

    params: Params
    optimizer_state: Any
    rollout_state: Any  # environments in flight in "stream", else None
    key: Array
    update: Array  # updates done
    env_steps: Array  # environment steps taken (padding not counted)
    skipped: Array  # updates dropped because they were not finite (`pgjax.training.guard`)
    skipped_in_a_row: Array  # of these, the last ones with none in between that was
    reward_scale: Any = None  # statistics of the discounted return, with `normalise_rewards`
    previous: Any = None  # (params, gradient) of the update before, with `momentum`


class Trainer(NamedTuple):
    """Training as a pair of pure functions; a vmapped Trainer is again a Trainer.

    Attributes:
      init: (algorithm, key) -> TrainState.
      update: (algorithm, state) -> (state, metrics), metrics a dict of scalars.
      shares: among at most so many devices can one batch's environments be shared (any divisor serves).
      worth_sharing: whether that gains more than the devices' meeting costs.
      steps: environment steps of one update, at most; 0 if that is not known.
    """

    init: Callable[[Algorithm, Array], TrainState]
    update: Callable[[Algorithm, TrainState], tuple[TrainState, dict[str, Array]]]
    shares: int = 1
    worth_sharing: bool = False
    steps: int = 0
