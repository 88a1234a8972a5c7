"""The records every part speaks: arrays are time-major [T, N, ...], records are immutable pytrees."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.spaces import Box as Box
from pgjax.spaces import Discrete as Discrete
from pgjax.spaces import MultiBinary as MultiBinary
from pgjax.spaces import MultiDiscrete as MultiDiscrete
from pgjax.spaces import Space

ACTION_MASK = "action_mask"
"""The part of an observation of this name, at any depth, masks actions: those whose entry is 0 are never taken."""

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
        self.reason = reason


class Transition(NamedTuple):
    """What a rollout records, [T, N, ...]. Rows with `mask` 0 are padding after an episode's end."""

    observation: Any
    action: Any  # in the policy's coordinates, a pytree where the action space is one
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
    value: Array  # V(s_t); 0 where none was given, None in training without a critic
    next_value: Array  # V(s_{t+1}); 0 where the value ends
    log_ratio: Array  # log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t)
    action_value: Array | None = None  # Q̃(s_t, ·), [T, ..., A]
    taken_value: Array | None = None  # Q̃(s_t, a_t)
    group: Array | None = None  # number of the group that the trajectory belongs to
    elapsed: Array | None = None  # steps of its episode that the environment had behind it at row 0
    behaviour_log_prob: Array | None = None  # log π_θ̄(a_t|s_t)
    reference_log_prob: Array | None = None  # log π_ref(a_t|s_t), of a policy that stays as it is


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


_FUNCTIONS = (type(jax.jit(len)), type(len), type(np.sum))
"""Besides plain functions: jitted, built-in and numpy's."""


class _AlgorithmFields(NamedTuple):
    estimator: Estimator
    optimizer: Any
    discount: ArrayLike = 1.0
    entropy_coefficient: Any = 0.0
    max_grad_norm: ArrayLike = float("inf")
    value_target: Any = None
    value_coefficient: ArrayLike = 0.5
    value_clip: ArrayLike | None = None
    kl_coefficient: ArrayLike | None = None
    target_kl: ArrayLike | None = None
    momentum: ArrayLike | None = None
    control_variate: Any = None
    policy_step: Any = None
    reference_loss: Any = None
    reference_reward: Any = None
    max_mismatch: ArrayLike | None = None
    environment: Mapping[str, ArrayLike] | None = None
    learning_rate_schedule: Any = None


class Algorithm(_AlgorithmFields):
    """A method of the family: what is estimated, how parameters move, and every number it takes.

    A pytree whose leaves are the hyperparameters: `vmap` over a stacked Algorithm is a sweep. Plain functions, and an
    optimiser that is already made, become `Partial`s here, so that they are no leaves.

    Attributes:
      estimator: of the policy gradient.
      optimizer: () -> optax.GradientTransformation, built inside the trace; or a transformation as it is.
      discount: γ, one number, or one per environment [N].
      entropy_coefficient: weight of the entropy bonus: a number, or a schedule of the update count.
      max_grad_norm: of the whole gradient, before the optimiser.
      value_target: Credit that the critic regresses on.
      value_coefficient: weight of the value loss.
      value_clip: how far V may move per batch, as PPO's code does it.
      kl_coefficient: weight of the penalty KL(π_θ̄ ‖ π_θ) per step.
      target_kl: no further step on a batch once the estimated KL is above.
      momentum: weight α of the new gradient in a recursive estimate (STORM-PG).
      control_variate: (gradients [N, ...], scores [N, ...]) -> what to take off their sum.
      policy_step: moves the policy in place of the optimiser (`pgjax.steps`).
      reference_loss: penalty on the KL to the reference policy in the loss (`pgjax.estimators.reference_kl`).
      reference_reward: the same in the reward, stopped.
      max_mismatch: C of truncated importance sampling between sampler and learner: the learner's log-probabilities of
        the batch are computed anew, ratios are relative to them, and every step of the surrogate is weighted by
        min(π_learner/π_sampler, C), stopped. None takes the recorded ones for the learner's.
      environment: name -> number, parameters of the environment that training acts in, in place of its own
        (`pgjax.environments.with_parameters`); None leaves it as it is.
      learning_rate_schedule: environment steps taken before an update -> factor of the optimiser's `learning_rate`
        (`pgjax.methods.schedules`).

    >>> import jax, optax
    >>> from pgjax import reinforce
    >>> algorithm = reinforce().algorithm._replace(optimizer=optax.sgd(0.1))
    >>> len(jax.tree.leaves(algorithm))  # the numbers that can be swept; 0.1 is fixed
    4
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make functions and made optimisers `Partial`s."""
        given = _AlgorithmFields(*args, **kwargs)
        return super().__new__(cls, *(_as_part(x) for x in given))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:
        return cls(*iterable)

    def __repr__(self) -> str:
        """Its functions and numbers by name; what is at its default is left out."""
        defaults = _AlgorithmFields._field_defaults
        said = {
            n: x
            for n, x in self._asdict().items()
            if n != "estimator" and (n not in defaults or _differs(x, defaults[n]))
        }
        credit, contribution = self.estimator if isinstance(self.estimator, Estimator) else (self.estimator, None)
        parts = {"credit": credit, "contribution": contribution} | said
        return f"Algorithm({', '.join(f'{name}={_in_words(x)}' for name, x in parts.items() if x is not None)})"


def _differs(x: Any, default: Any) -> bool:
    return x is not default and (np.ndim(x) > 0 or callable(x) or isinstance(x, Mapping) or x != default)


def _in_words(x: Any) -> str:
    """A part of an algorithm in a few words: a function with the numbers bound in it, a number, an array's shape.

    >>> import optax
    >>> _in_words(Partial(optax.adam, learning_rate=0.5)), _in_words(np.ones(3))
    ('adam(learning_rate=0.5)', '[3]')
    """
    if isinstance(x, Partial):
        given = [*map(_in_words, x.args), *(f"{name}={_in_words(value)}" for name, value in x.keywords.items())]
        name = getattr(x.func, "__name__", type(x.func).__name__).lstrip("_")
        return f"{name}({', '.join(given)})" if given else name
    if isinstance(x, Mapping):
        return f"{{{', '.join(f'{name}: {_in_words(value)}' for name, value in x.items())}}}"
    if hasattr(x, "shape"):
        return f"{list(x.shape)}" if np.ndim(x) or isinstance(x, Tracer) else f"{float(x):.6g}"
    return f"{x:.6g}" if isinstance(x, float) else getattr(x, "__name__", None) or repr(x)


def check_algorithm(algorithm: Any) -> None:
    """Refuse what is no Algorithm: above all a recipe, which holds one.

    Raises:
      SettingError: saying what to pass.

    >>> from pgjax import reinforce
    >>> check_algorithm(reinforce())
    Traceback (most recent call last):
    pgjax.types.SettingError: algorithm: 'a Recipe' is a method with its static settings: pass recipe.algorithm
    """
    if hasattr(algorithm, "algorithm") and hasattr(algorithm, "config"):
        raise SettingError("algorithm", "a Recipe", "is a method with its static settings: pass recipe.algorithm")
    if not isinstance(algorithm, Algorithm):
        raise SettingError("algorithm", algorithm, "is no pgjax.Algorithm, as recipe.algorithm is one")


def _as_part(x: Any) -> Any:
    if isinstance(x, Estimator):
        return Estimator(*map(_as_part, x))
    if hasattr(x, "init") and hasattr(x, "update"):
        return Partial(_Made(x))
    return as_partial(x) if isinstance(x, FunctionType | functools.partial) or type(x) in _FUNCTIONS else x


class _Made:
    """A function that gives an optimiser made beforehand; equal for the same one, so that programs are found again."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def __call__(self) -> Any:
        return self.optimizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Made) and self.optimizer == other.optimizer

    def __hash__(self) -> int:
        return hash(self.optimizer)


def as_partial(function: Callable) -> Partial:
    """A function as a pytree: numbers bound in it are leaves, functions bound in it are not.

    >>> import optax
    >>> made = as_partial(functools.partial(optax.adamw, weight_decay=0.1, mask=lambda params: True))
    >>> jax.tree.leaves(made)
    [0.1]
    """
    if not isinstance(function, functools.partial):
        return Partial(function)
    bound = (*enumerate(function.args), *function.keywords.items())
    fixed = {place: x for place, x in bound if callable(x) and not isinstance(x, Partial)}
    if isinstance(function, Partial) and not fixed:
        return function  # wrapping it once more would hide the numbers bound in it
    args = [x for place, x in enumerate(function.args) if place not in fixed]
    keywords = {name: x for name, x in function.keywords.items() if name not in fixed}
    return Partial(_Bound(function.func, fixed) if fixed else function.func, *args, **keywords)


class _Bound:
    """A function with others bound in it, by place or name; equal for the same ones: programs are found again."""

    def __init__(self, function: Callable, fixed: dict[Any, Callable]):
        self.function, self.fixed = function, fixed
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        everything, named = list(args), dict(kwargs)
        for place, x in self.fixed.items():  # places ascend
            if isinstance(place, int):
                everything.insert(place, x)
            else:
                named.setdefault(place, x)
        return self.function(*everything, **named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bound) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.function, *self.fixed.items()))


class Environment(NamedTuple):
    """One environment as two pure functions; `step` never resets by itself.

    Attributes:
      name: what it was made from.
      reset: key -> (observation, state).
      step: (key, state, action) -> (observation, state, reward, terminated, truncated); the last three are scalars,
        the state has the same structure, shapes and types as before.
      observation: shape and dtype of an observation, or a pytree of them.
      num_categories: how many values a numbered observation takes (it is one-hot encoded), else None; for a pytree of
        observations a pytree of the same structure, None where the number is no category.
      action_space: Discrete, MultiDiscrete, MultiBinary, Box (`pgjax.spaces`), or a pytree of these.
      horizon: after how many steps every episode has ended.
      parameters: name -> its value here, of the real numbers that may vary between runs or episodes. `reset` and `step`
        of an environment that has some are given those that differ as `values={name: number}`; without any they are
        called without it.

    `pgjax.environments.base.check_environment` says in one line where an environment is none of this.
    """

    name: str
    reset: Callable[..., tuple[Any, Any]]
    step: Callable[..., tuple[Any, Any, Array, Array, Array]]
    observation: Any
    num_categories: Any
    action_space: Space
    horizon: int
    parameters: Mapping[str, ArrayLike] = MappingProxyType({})

    def __hash__(self) -> int:
        """By its functions, so that a dict of observations may be part of it."""
        return hash((self.name, self.reset, self.step, self.horizon))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["kind"])
@dataclass(frozen=True)
class KeyData:
    """Keys as plain numbers: jax's check of key reuse loses sight of keys whose axes `vmap` moves for a loop."""

    data: Array
    kind: Any

    @classmethod
    def of(cls, keys: Array) -> Self:
        """Of an array of keys."""
        return cls(jax.random.key_data(keys), jax.random.key_impl(keys))

    def key(self) -> Array:
        """Back again."""
        return jax.random.wrap_key_data(self.data, impl=self.kind)


class Keyed(NamedTuple):
    """An observation with the key that a network draws from there, [...]: in training, for agents with `takes_key`.

    The key is recorded with the observation, so that dropout leaves out the same units whenever a probability is
    computed anew: a ratio of probabilities under two different masks would not be that of the policies.
    """

    observation: Any
    key: KeyData


class Memory(NamedTuple):
    """What makes a policy recurrent: a state carried along each episode, from which policy and critic read.

    Attributes:
      initial: what an episode starts with, a pytree.
      step: (params, carry, observation) -> (carry, features); batched over any leading axes. Policy and value then
        act on features in place of observations.
      halves: the step in two, or None: (params, observation) -> x, which no carry enters, and which is computed for all
        steps of a batch at once; and (params, carry, x) -> (carry, features).
    """

    initial: Any
    step: Callable[[Params, Any, Any], tuple[Any, Any]]
    halves: tuple[Callable[[Params, Any], Any], Callable[[Params, Any, Any], tuple[Any, Any]]] | None = None

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
      takes_key: in training the functions get every observation as `Keyed`, in evaluation as it is: so for dropout.
    """

    init: Callable[[Array], Params]
    policy: Callable[[Params, Any], Any]
    value: Callable[[Params, Any], Array] | None = None
    action_value: Callable[[Params, Any], Array] | None = None
    memory: Memory | None = None
    observe: Callable[[Params, Any, Array], Params] | None = None
    takes_key: bool = False

    @property
    def critic(self) -> str:
        """Which values it learns, as `Config.critic` calls it."""
        return "action" if self.action_value else "state" if self.value else "none"

    def __repr__(self) -> str:
        """What it has beside a policy."""
        has = {"memory": self.memory, "statistics": self.observe, "a key in training": self.takes_key}
        return f"Agent(critic={self.critic!r}{''.join(f', {name}' for name, x in has.items() if x)})"


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
    reference: Any = None  # params of the reference policy, with a KL to it: those that training starts from


class Trainer(NamedTuple):
    """What is trained on what, and the two functions that do it; a vmapped `update` is again one.

    Attributes:
      environment: what is acted in.
      agent: what acts.
      config: the static settings.
      init: (algorithm, key) -> TrainState.
      update: (algorithm, state) -> (state, metrics), metrics a dict of scalars: `pgjax.collect`, then `pgjax.learn`.
    """

    environment: Environment
    agent: Agent
    config: Any  # a `pgjax.Config`
    init: Callable[[Algorithm, Array], TrainState]
    update: Callable[[Algorithm, TrainState], tuple[TrainState, dict[str, Array]]]

    def __repr__(self) -> str:
        """The environment's name, the agent, and the static settings that are not at their defaults."""
        config = self.config
        if is_dataclass(config):
            changed = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
            config = f"{type(config).__name__}({', '.join(f'{name}={x!r}' for name, x in changed.items())})"
        return f"Trainer({self.environment.name}, {self.agent!r}, {config})"
