"""Records that all parts share: immutable pytrees of time-major arrays, [T, N, ...]."""

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
"""Name of the part of an observation, at any depth, that masks actions; those whose entry is 0 are never taken."""

Params = Any
"""A pytree of arrays; of an agent, `{"policy": ..., "value": ...}`, where `value` is empty without a critic."""


class SettingError(ValueError):
    """A setting that does not work; the message is one line, such as "discount: 1.5 must lie in [0, 1]"."""

    def __init__(self, field: str, value: object, reason: str):
        """Join field, value and reason into one line."""
        super().__init__(f"{field}: {' '.join(repr(value).split())} {reason}")
        self.reason = reason


class Transition(NamedTuple):
    """What a rollout records, [T, N, ...]. Rows with `mask` 0 are padding after the end of an episode."""

    observation: Any
    action: Any  # in the policy's coordinates, a pytree where the action space is one
    log_prob: Array  # log π_θ̄(a_t|s_t) at sampling time: data, never recomputed
    reward: Array  # 0 on padding
    terminated: Array  # the episode terminated: no value follows
    truncated: Array  # the episode was cut by a time limit: the value of the next state follows
    next_observation: Any  # before any reset
    mask: Array  # 1 where an action was taken


class Signals(NamedTuple):
    """Arrays that credit is computed from, [T, ...], not differentiated. Build them with `pgjax.make_signals`."""

    reward: Array
    continues: Array  # 1 where step t+1 belongs to the same episode
    mask: Array
    discount: Array  # γ
    value: Array  # V(s_t); 0 where none was given, None in training without a critic
    next_value: Array  # V(s_{t+1}); 0 where the value ends
    log_ratio: Array  # log π_θ(a_t|s_t) − log π_θ̄(a_t|s_t)
    action_value: Array | None = None  # Q̃(s_t, ·), [T, ..., A]
    taken_value: Array | None = None  # Q̃(s_t, a_t)
    group: Array | None = None  # group number of the trajectory
    elapsed: Array | None = None  # steps of its episode that each environment took before row 0
    behaviour_log_prob: Array | None = None  # log π_θ̄(a_t|s_t)
    reference_log_prob: Array | None = None  # log π_ref(a_t|s_t), of a fixed policy


Credit = Callable[[Signals], Array]
"""Credit of each action: signals -> Ψ, [T, ...]."""

Surrogate = Callable[[Array, Array, Array], Array]
"""(log_ratio, credit, continues) -> [T, ...], differentiable in `log_ratio`."""


class Estimator(NamedTuple):
    """Policy-gradient estimator in two stages; `product(credit, surrogate)` makes most of them.

    `credit(signals)` sees the whole batch and is not differentiated. `contribution(credit, signals, distribution,
    log_ratio)` returns [T, ...], whose sum over time is a trajectory's surrogate. Only the first stage combines
    trajectories, so the second can be computed on parts of a batch, or differentiated per trajectory.
    """

    credit: Partial
    contribution: Partial


_FUNCTIONS = (type(jax.jit(len)), type(len), type(np.sum))
"""Types of functions besides plain ones: jitted, built-in and numpy's."""


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
    """A method: what is estimated, how parameters are updated, and all hyperparameters.

    A pytree whose leaves are the hyperparameters, so `vmap` over a stacked Algorithm is a sweep. Plain functions and
    finished optimisers become `Partial`s, so that they are not leaves.
    Attributes:
      optimizer: () -> optax.GradientTransformation, built inside the trace; or a transformation.
      discount: γ, one number, or one per environment [N].
      entropy_coefficient: weight of the entropy bonus: a number, or a schedule of the update count.
      max_grad_norm: largest norm of the whole gradient, before the optimiser.
      value_target: Credit that the critic regresses on.
      value_clip: largest change of V per batch, as in PPO's code.
      kl_coefficient: weight of the penalty KL(π_θ̄ ‖ π_θ) per step.
      target_kl: no further update on a batch once the estimated KL is above.
      momentum: weight α of the new gradient in a recursive estimate (STORM-PG).
      control_variate: (gradients [N, ...], scores [N, ...]) -> what to subtract from their sum.
      policy_step: policy update that replaces the optimiser (`pgjax.steps`).
      reference_loss: penalty on the KL to the reference policy in the loss (`pgjax.estimators.reference_kl`).
      reference_reward: the same penalty in the reward, not differentiated.
      max_mismatch: C of truncated importance sampling between sampler and learner. The learner's log-probabilities of
        the batch are recomputed and replace the recorded ones in the ratios. Every step of the surrogate has the weight
        min(π_learner/π_sampler, C), not differentiated. None uses the recorded log-probabilities.
      environment: name -> number, environment parameters for training (`pgjax.environments.with_parameters`), or None.
      learning_rate_schedule: environment steps before an update -> factor of the optimiser's `learning_rate`.

    >>> import jax, optax
    >>> from pgjax import reinforce
    >>> len(jax.tree.leaves(reinforce().algorithm._replace(optimizer=optax.sgd(0.1))))  # 4 to sweep; 0.1 is fixed
    4
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Convert functions and finished optimisers to `Partial`s."""
        given = _AlgorithmFields(*args, **kwargs)
        return super().__new__(cls, *(_without_leaves(x) for x in given))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:
        return cls(*iterable)

    def __repr__(self) -> str:
        """Functions and hyperparameters by name, without those at their default."""
        defaults = _AlgorithmFields._field_defaults
        changed = {
            n: x
            for n, x in self._asdict().items()
            if n != "estimator" and (n not in defaults or _differs(x, defaults[n]))
        }
        credit, contribution = self.estimator if isinstance(self.estimator, Estimator) else (self.estimator, None)
        parts = {"credit": credit, "contribution": contribution} | changed
        return f"Algorithm({', '.join(f'{name}={_short(x)}' for name, x in parts.items() if x is not None)})"


def _differs(x: Any, default: Any) -> bool:
    return x is not default and (np.ndim(x) > 0 or callable(x) or isinstance(x, Mapping) or x != default)


def _short(x: Any) -> str:
    """Short form of a part: a function with its bound values, a number, or the shape of an array."""
    if isinstance(x, Partial):
        given = [*map(_short, x.args), *(f"{name}={_short(value)}" for name, value in x.keywords.items())]
        name = getattr(x.func, "__name__", type(x.func).__name__).lstrip("_")
        return f"{name}({', '.join(given)})" if given else name
    if isinstance(x, Mapping):
        return f"{{{', '.join(f'{name}: {_short(value)}' for name, value in x.items())}}}"
    if hasattr(x, "shape"):
        return f"{list(x.shape)}" if np.ndim(x) or isinstance(x, Tracer) else f"{float(x):.6g}"
    return f"{x:.6g}" if isinstance(x, float) else getattr(x, "__name__", None) or repr(x)


def check_algorithm(algorithm: Any) -> None:
    """Reject what is not an Algorithm, such as the recipe that contains one."""
    if hasattr(algorithm, "algorithm") and hasattr(algorithm, "config"):
        raise SettingError("algorithm", "a Recipe", "is a method with its static settings: pass recipe.algorithm")
    if not isinstance(algorithm, Algorithm):
        raise SettingError("algorithm", algorithm, "is not a pgjax.Algorithm: pass recipe.algorithm")


def _without_leaves(x: Any) -> Any:
    if isinstance(x, Estimator):
        return Estimator(*map(_without_leaves, x))
    if hasattr(x, "init") and hasattr(x, "update"):
        return Partial(_FixedOptimizer(x))
    return as_partial(x) if isinstance(x, FunctionType | functools.partial) or type(x) in _FUNCTIONS else x


class _FixedOptimizer:
    """A function that returns a given optimiser; compares equal for the same one, so compiled programs are reused."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer

    def __call__(self) -> Any:
        return self.optimizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FixedOptimizer) and self.optimizer == other.optimizer

    def __hash__(self) -> int:
        return hash(self.optimizer)


def as_partial(function: Callable) -> Partial:
    """Convert a function to a pytree: numbers bound in it are leaves, functions and strings bound in it are not."""
    if not isinstance(function, functools.partial):
        return Partial(function)
    bound = (*enumerate(function.args), *function.keywords.items())
    fixed = {place: x for place, x in bound if (callable(x) and not isinstance(x, Partial)) or isinstance(x, str)}
    if isinstance(function, Partial) and not fixed:
        return function  # another wrapper would hide the bound numbers
    args = [x for place, x in enumerate(function.args) if place not in fixed]
    keywords = {name: x for name, x in function.keywords.items() if name not in fixed}
    return Partial(_Bound(function.func, fixed) if fixed else function.func, *args, **keywords)


class _Bound:
    """A function with others or strings bound in it; equal for the same ones, so that compiled programs are reused."""

    def __init__(self, function: Callable, fixed: dict[Any, Callable | str]):
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
    """An environment as two pure functions; `step` does not reset by itself.

    `pgjax.environments.base.check_environment` checks that an environment satisfies this interface.
    Attributes:
      reset: key -> (observation, state).
      step: (key, state, action) -> (observation, state, reward, terminated, truncated). The last three are scalars; the
        state keeps its structure, shapes and dtypes.
      observation: shape and dtype of an observation, or a pytree of them.
      num_categories: number of values of a categorical observation, which is one-hot encoded, else None. A pytree of
        observations has a pytree of the same structure.
      action_space: Discrete, MultiDiscrete, MultiBinary, Box (`pgjax.spaces`), or a pytree of these.
      horizon: largest number of steps of an episode; one that is still running then is truncated by every rollout.
      parameters: name -> default of the real numbers that may vary between runs or episodes. `reset` and `step` receive
        the values that differ as `values={name: number}`.
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
        """Hash of the functions; the observation may be an unhashable dict."""
        return hash((self.name, self.reset, self.step, self.horizon))

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; arrays among them, such as an example as `observation`, are compared whole."""
        return self is other or (isinstance(other, Environment) and all(map(_same, self, other)))

    def __ne__(self, other: object) -> bool:
        """The opposite of `==`."""
        return not self == other


def _same(a: Any, b: Any) -> bool:
    """Whether two pytrees, or mappings of arrays, are equal."""
    a, b = (dict(x) if isinstance(x, Mapping) else x for x in (a, b))
    (of_a, structure), (of_b, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    return structure == other and all(map(_same_leaf, of_a, of_b))


def _same_leaf(x: Any, y: Any) -> bool:
    if x is y or isinstance(x, Tracer) or isinstance(y, Tracer):
        return x is y
    arrays = isinstance(x, np.ndarray | Array) or isinstance(y, np.ndarray | Array)
    return np.array_equal(x, y) if arrays else bool(x == y)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=["kind"])
@dataclass(frozen=True)
class KeyData:
    """Keys as plain numbers, because jax's key-reuse check loses track of keys whose axes `vmap` moves for a loop."""

    data: Array
    kind: Any

    @classmethod
    def of(cls, keys: Array) -> Self:
        """From an array of keys."""
        return cls(jax.random.key_data(keys), jax.random.key_impl(keys))

    def key(self) -> Array:
        """The array of keys."""
        return jax.random.wrap_key_data(self.data, impl=self.kind)


class Keyed(NamedTuple):
    """An observation with the key for random layers, [...]; passed in training to agents with `takes_key`.

    The key is recorded, so that dropout drops the same units when a probability is recomputed. Otherwise the ratio of
    two probabilities would not be that of the policies.
    """

    observation: Any
    key: KeyData


class Halves(NamedTuple):
    """A memory's step in two parts.

    Attributes:
      encode: (params, observation) -> x, computed for all steps of a batch at once.
      step: (params, carry, x) -> (carry, features).
      along: the second part at all steps of a batch, in a loop of its own, or None: (params, initial, carry at the
        first row, x, ended) -> (carry after each step, features), [T, N, ...]. Forward mode need not be able to
        differentiate it, and no gradient need flow into `initial`.
      whole: the `step` of the memory. If that is replaced, the halves are not used.
    """

    encode: Callable[[Params, Any], Any]
    step: Callable[[Params, Any, Any], tuple[Any, Any]]
    along: Callable[[Params, Any, Any, Any, Array], tuple[Any, Any]] | None
    whole: Any


class Memory(NamedTuple):
    """Recurrent part of a policy: a state carried along each episode, and features for policy and critic.

    Attributes:
      initial: state at the start of an episode, a pytree.
      step: (params, carry, observation) -> (carry, features), batched over any leading axes.
      halves: the step in two parts, or None.
    """

    initial: Any
    step: Callable[[Params, Any, Any], tuple[Any, Any]]
    halves: Halves | None = None

    @property
    def parts(self) -> Halves:
        """The halves if they belong to `step`; otherwise `step` as the second of them."""
        if self.halves is not None and self.halves.whole == self.step:
            return self.halves
        return Halves(lambda params, observation: observation, self.step, None, self.step)

    # Compared by identity: an agent is a static argument of compiled functions, and arrays have no hash.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class SharedLayers(NamedTuple):
    """Layers that policy and critic share, so that a loss can compute them once.

    Attributes:
      apply: (params, observation or features of the memory) -> output, which the functions in `readers` take as well.
      readers: `policy`, `value` and `action_value` of the agent. If one of them is replaced in the agent, for example
        by one that changes the observation first, the shared layers are not used.
    """

    apply: Callable[[Params, Any], Any]
    readers: tuple[Any, Any, Any]


class Agent(NamedTuple):
    """A policy and an optional critic as pure functions of parameters.

    Attributes:
      init: key -> {"policy": params, "value": params, ...}; all functions take this whole tree. Parameters that policy
        and critic share are "shared"; "statistics" are not trained.
      policy: (params, observation [..., *shape]) -> distribution over actions.
      value: (params, observation) -> V(s), [...]; None without a critic.
      action_value: (params, observation) -> Q(s, ·), [..., A], or None; with it, `value` is its mean under the policy.
      memory: of a recurrent policy; policy and critic then take its features instead of observations.
      shared: layers that policy and critic share, if a loss may compute them once.
      observe: (params, observations [T, N, ...], mask [T, N]) -> params with the batch merged into "statistics".
      takes_key: whether the functions get observations as `Keyed` in training, for example for dropout.
    """

    init: Callable[[Array], Params]
    policy: Callable[[Params, Any], Any]
    value: Callable[[Params, Any], Array] | None = None
    action_value: Callable[[Params, Any], Array] | None = None
    memory: Memory | None = None
    observe: Callable[[Params, Any, Array], Params] | None = None
    takes_key: bool = False
    shared: SharedLayers | None = None

    def seen(self, params: Params, inputs: Any) -> Any:
        """Inputs of policy and critic, observations or features of a memory, after the layers that both share."""
        return self.shared.apply(params, inputs) if self.shared is not None and self.shares else inputs

    @property
    def shares(self) -> bool:
        """Whether the shared layers belong to the present policy and critic."""
        return self.shared is not None and self.shared.readers == (self.policy, self.value, self.action_value)

    @property
    def critic(self) -> str:
        """Which values it learns, as in `Config.critic`: "none", "state" or "action"."""
        return "action" if self.action_value else "state" if self.value else "none"

    def __repr__(self) -> str:
        """The critic and the optional parts."""
        has = {"memory": self.memory, "statistics": self.observe, "a key in training": self.takes_key}
        return f"Agent(critic={self.critic!r}{''.join(f', {name}' for name, x in has.items() if x)})"


class TrainState(NamedTuple):
    """State that training carries from one update to the next."""

    params: Params
    optimizer_state: Any
    rollout_state: Any  # state of the running environments in "stream", else None
    key: Array
    update: Array  # updates done
    env_steps: Array  # environment steps taken (padding not counted)
    skipped: Array  # updates dropped because they were not finite (`pgjax.training.guard`)
    skipped_in_a_row: Array  # number of these since the last finite update
    reward_scale: Any = None  # statistics of the discounted return, with `normalise_rewards`
    previous: Any = None  # (params, gradient) of the previous update, with `momentum`
    reference: Any = None  # initial params, the reference policy of a KL penalty


class Trainer(NamedTuple):
    """Environment, agent and static settings, with the functions that train.

    `init` is (algorithm, key) -> TrainState. `update` is (algorithm, state) -> (state, metrics), metrics a dict of
    scalars: `pgjax.collect`, then `pgjax.learn`. A vmapped `update` is also valid.
    """

    environment: Environment
    agent: Agent
    config: Any  # a `pgjax.Config`
    init: Callable[[Algorithm, Array], TrainState]
    update: Callable[[Algorithm, TrainState], tuple[TrainState, dict[str, Array]]]

    def __repr__(self) -> str:
        """The environment's name, the agent, and the static settings that differ from their defaults."""
        config = self.config
        if is_dataclass(config):
            changed = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
            config = f"{type(config).__name__}({', '.join(f'{name}={x!r}' for name, x in changed.items())})"
        return f"Trainer({self.environment.name}, {self.agent!r}, {config})"
