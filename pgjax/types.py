"""The records every part speaks: arrays are time-major [T, N, ...], records are immutable pytrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

Params = Any
"""A pytree of arrays. An agent's is `{"policy": ..., "value": ...}`; without a critic `value` is empty."""


class SettingError(ValueError):
    """A setting that cannot work: names the field, the value and the reason in one line.

    >>> str(SettingError("discount", 1.5, "must lie in [0, 1]"))
    'discount: 1.5 must lie in [0, 1]'
    """

    def __init__(self, field: str, value: object, reason: str):
        """Join field, value and reason into the one line a person reads."""
        super().__init__(f"{field}: {value!r} {reason}")


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
    entropy_coefficient: ArrayLike = 0.0
    max_grad_norm: ArrayLike = float("inf")
    value_target: Partial | None = None  # Credit that the critic regresses on
    value_coefficient: ArrayLike = 0.5
    control_variate: Partial | None = None  # (gradients [N, ...], scores [N, ...]) -> correction


@dataclass(frozen=True)
class Config:
    """Shapes, counts and switches of training: static, hashable, what a compiled program depends on.

    Attributes:
      rollout: "episodes" runs every environment from reset to its end (padding masked), which Monte-Carlo returns
        and products of ratios need; "stream" runs `num_steps` steps with auto-reset, which actor-critics need.
      num_envs: trajectories (episodes) or parallel environments (stream) per update.
      num_steps: steps per environment and update in "stream"; not used in "episodes", where the horizon rules.
      epochs: passes over each batch; from the second on the policy is no longer the one that sampled it, and what an
        estimator does about that is its business (`pgjax.importance`).
      accumulate: slices whose gradients are summed one after the other; memory falls by that factor.
      batch_steps: in "episodes", keep only the first episodes that together reach this many steps (0 keeps all).
      mean: "trajectories" divides by their number N (exact); "steps" by the number of executed steps (a ratio
        estimator: another scale and, where lengths vary, another direction).
      truncation: "bootstrap" lets V(final observation) follow a time limit; "terminal" lets nothing follow.
      discounted_objective: True keeps the factor γ^t in front of step t, the gradient of E[Σ γ^t r_t]; False drops
        it, as most libraries do (with γ < 1 that is the gradient of no function, Nota & Thomas 2020).
      critic: which values are learned: "none", "state" for V(s), "action" for Q(s, a) of discrete actions.
      diagnostics: groups of trajectories whose gradients are compared at every update (`pgjax.diagnostics.monitor`):
        gradient noise, critical batch size, probes of score and bias among the metrics. 0 is off.
    """

    rollout: Literal["episodes", "stream"] = "episodes"
    num_envs: int = 32
    num_steps: int = 128
    epochs: int = 1
    accumulate: int = 1
    batch_steps: int = 0
    mean: Literal["trajectories", "steps"] = "trajectories"
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    discounted_objective: bool = False
    critic: Literal["none", "state", "action"] = "none"
    diagnostics: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything compiles."""
        choices = {"rollout": Rollout, "mean": Mean, "truncation": Truncation, "critic": Critic}
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise SettingError(name, getattr(self, name), f"is none of {', '.join(get_args(literal))}")
        least_values = {"num_envs": 1, "num_steps": 1, "epochs": 1, "accumulate": 1, "batch_steps": 0, "diagnostics": 0}
        for name, least in least_values.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SettingError(name, value, f"must be a whole number of at least {least}")
        for name in ("accumulate", "diagnostics"):
            if getattr(self, name) and self.num_envs % getattr(self, name):
                raise SettingError(name, getattr(self, name), f"does not divide num_envs {self.num_envs}")
        if self.diagnostics == 1 or (self.diagnostics and self.accumulate > 1):
            raise SettingError("diagnostics", self.diagnostics, "needs at least 2 groups, and accumulate 1")
        if self.batch_steps and self.rollout != "episodes":
            raise SettingError("batch_steps", self.batch_steps, 'needs rollout "episodes"')


Rollout = Literal["episodes", "stream"]
Mean = Literal["trajectories", "steps"]
Truncation = Literal["bootstrap", "terminal"]
Critic = Literal["none", "state", "action"]


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
      observation: shape and dtype of an observation.
      num_categories: how many values an integer observation takes (it is one-hot encoded), else None.
      action_space: Discrete or Box.
      horizon: after how many steps every episode has ended.
    """

    name: str
    reset: Callable[[Array], tuple[Any, Any]]
    step: Callable[[Array, Any, Array], tuple[Any, Any, Array, Array, Array]]
    observation: jax.ShapeDtypeStruct
    num_categories: int | None
    action_space: Discrete | Box
    horizon: int


class Agent(NamedTuple):
    """A policy and an optional critic as pure functions of parameters; any network fits behind it.

    Attributes:
      init: key -> {"policy": params, "value": params}; all functions take this whole tree.
      policy: (params, observation [..., *shape]) -> distribution over actions.
      value: (params, observation) -> V(s), [...]; None without a critic.
      action_value: (params, observation) -> Q(s, ·), [..., A]; None without an action-value critic, whose `value` is
        the policy's mean of it.
    """

    init: Callable[[Array], Params]
    policy: Callable[[Params, Any], Any]
    value: Callable[[Params, Any], Array] | None = None
    action_value: Callable[[Params, Any], Array] | None = None

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


class Trainer(NamedTuple):
    """Training as a pair of pure functions; a vmapped Trainer is again a Trainer.

    Attributes:
      init: (algorithm, key) -> TrainState.
      update: (algorithm, state) -> (state, metrics), metrics a dict of scalars.
    """

    init: Callable[[Algorithm, Array], TrainState]
    update: Callable[[Algorithm, TrainState], tuple[TrainState, dict[str, Array]]]
