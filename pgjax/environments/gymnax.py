"""gymnax environments with separate termination and truncation. gymnax is imported when first used."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from pgjax.environments.base import check_environment
from pgjax.environments.dtypes import is_too_large, strong
from pgjax.environments.gymnax_steps import without_resets
from pgjax.environments.limits import Counted
from pgjax.environments.spaces import action_space, actions, categories
from pgjax.types import Environment, SettingError

PREFIX = ""
"""Names of these environments have no prefix."""

EXTRA = ""
"""No extra: gymnax is a dependency of pgjax."""

Values = Mapping[str, ArrayLike] | None
"""Parameter values that replace an environment's own."""

# Maximum episode lengths of environments that terminate well before gymnax's time limit.
_SHORT_EPISODES: dict[str, Any] = {
    "Catch-bsuite": lambda env, params: env.rows - 1,
    "MemoryChain-bsuite": lambda env, params: params.memory_length + 1,
    "UmbrellaChain-bsuite": lambda env, params: params.chain_length,
    "SimpleBandit-bsuite": lambda env, params: 1,
}


def available() -> list[str]:
    """gymnax's names, with those registered by `gymnax.register`."""
    import gymnax

    return list(gymnax.registered_envs)


def factory(name: str) -> Callable:
    """The constructor of a name. Raises a SettingError for an unknown name, with the closest known one."""
    from gymnax import registration

    known = registration._registry  # registered_envs lists only names
    if name not in known:
        by_lower = {other.lower(): other for other in known}
        close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
        raise SettingError("environment", name, f"is not known; the closest name is {by_lower[close[0]]}")
    return known[name]


def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its gymnax name. `settings` are arguments of its constructor or gymnax parameters.

    >>> make("Acrobot-v1", max_steps_in_episode=200).horizon
    200
    """
    import gymnax

    parameters: list[str] = []
    try:
        defaults = gymnax.make(name)[1]
        parameters = [field.name for field in fields(defaults)] if is_dataclass(defaults) else []
        env, params = gymnax.make(name, **{k: v for k, v in settings.items() if k not in parameters})
        chosen = {k: _like(getattr(params, k), v, k, name) for k, v in settings.items() if k in parameters}
        params = params.replace(**chosen) if chosen else params
        short = _SHORT_EPISODES.get(name)
        horizon = min(_limit(params, name), short(env, params)) if short else None
    except SettingError:
        raise
    except (TypeError, ValueError, OSError) as error:  # OSError: MNISTBandit downloads its data
        if isinstance(error, TypeError):
            _check_spelling(name, settings, parameters)
        known = f"; its parameters: {', '.join(parameters)}" if parameters and isinstance(error, TypeError) else ""
        raise SettingError("environment", name, f"cannot be made: {' '.join(str(error).split())}{known}") from error
    return from_gymnax(env, params, name=name, horizon=horizon)


def _check_spelling(name: str, settings: Mapping[str, Any], parameters: Sequence[str]) -> None:
    """Raise for an unknown setting that is nearly the name of a known one."""
    try:
        taken = inspect.signature(factory(name)).parameters.values()
    except ValueError:  # no signature
        return
    if any(one.kind is one.VAR_KEYWORD for one in taken):
        return
    known = [*parameters, *(one.name for one in taken)]
    for setting in settings:
        close = difflib.get_close_matches(setting, known, n=1)
        if setting not in known and close:
            raise SettingError("environment", name, f"has no setting {setting}; closest: {close[0]}")


def _like(default: Any, value: Any, field: str, name: str) -> Any:
    """A parameter with the type and shape of its default, without NaN or infinity; if that is no number, unchanged."""
    kinds = {"f": ("iuf", "real number"), "i": ("iu", "whole number"), "b": ("b", "bool")}
    wanted = np.asarray(default)
    if field == "max_steps_in_episode" or isinstance(value, Tracer) or wanted.dtype.kind not in kinds:
        return value
    allowed, what = kinds[wanted.dtype.kind]
    try:
        given = np.asarray(value)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.shape != wanted.shape or given.dtype.kind not in allowed or np.any(given != given):
        shape = f"an array {list(wanted.shape)} of {what}s" if wanted.shape else f"one {what}"
        raise SettingError(field, value, f"must be {shape} in {name}")
    if allowed == "iuf" and is_too_large(given) and not is_too_large(wanted):
        raise SettingError(field, value, f"must be finite in float32, in {name}")
    if isinstance(default, bool | int | float):
        return type(default)(given)
    return jnp.asarray(given, wanted.dtype)


def from_gymnax(env: Any, params: Any, *, name: str | None = None, horizon: int | None = None) -> Environment:
    """Wrap an object with gymnax 1.0's interface (`reset_env`, `step_env`, `is_truncated`, the spaces).

    gymnax wrappers keep their effect on observations, rewards, actions, states and spaces. The automatic reset at the
    end of an episode is removed, so the final observation is kept; this includes classes with their own `step` or
    `reset`. Real numbers among the parameters may vary (`Environment.parameters`), except those that determine spaces
    or the time limit.
    Args:
      env: the environment object, possibly wrapped.
      params: its parameters; numbers in it may be traced.
      horizon: steps after which every episode has ended; default `params.max_steps_in_episode`. An environment without
        its own time limit is truncated there.

    >>> import gymnax
    >>> environment = from_gymnax(*gymnax.make("CartPole-v1"))
    >>> environment.action_space, environment.observation.shape, environment.horizon
    (Discrete(n=2), (4,), 500)
    """
    name = name or str(getattr(env, "name", type(env).__name__))
    limit = _limit(params, name) if horizon is None else horizon
    steps = without_resets(env, params, name)
    acts = actions(_space(env, "action_space", params, name), name)

    def reset(key: Array, values: Values = None) -> tuple[Any, Any]:
        observation, state = strong(steps.reset(key, params.replace(**values) if values else params))
        return observation, state if steps.limited else Counted(state, jnp.int32(0))

    def step(key: Array, state: Any, action: Array, values: Values = None) -> tuple[Any, Any, Array, Array, Array]:
        inner, current = state if steps.limited else state.state, params.replace(**values) if values else params
        observation, inner, reward, terminated, truncated = steps.step(key, inner, acts.convert(action), current)
        observation, inner = strong((observation, inner))
        terminated, truncated = jnp.bool_(terminated), jnp.bool_(truncated)
        if steps.limited:
            return observation, inner, reward, terminated, truncated
        counted = Counted(inner, state.steps + 1)
        return observation, counted, reward, terminated, truncated | (counted.steps >= limit)

    observation = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0]
    environment = Environment(
        name=name,
        reset=reset,
        step=step,
        observation=observation,
        num_categories=categories(_space(env, "observation_space", params, name), observation, name),
        action_space=acts.space,
        horizon=limit,
    )
    environment = environment._replace(parameters=_free_numbers(env, params, environment))
    if not steps.plain:
        check_environment(environment)  # errors of a wrapper appear in a trace
    return environment


def _free_numbers(env: Any, params: Any, environment: Environment) -> dict[str, float]:
    """The real parameters that affect neither the time limit nor a space (which changes or fails if one is NaN)."""
    changed = getattr(params, "replace", None)
    if changed is None or not is_dataclass(params):
        return {}
    numbers = {field.name: getattr(params, field.name) for field in fields(params)}
    real = {name: x for name, x in numbers.items() if _is_real(x) and name != "max_steps_in_episode"}

    def is_free(field: str) -> bool:
        other, name = changed(**{field: math.nan}), environment.name
        try:
            actions = action_space(env.action_space(other), name)
            counts = categories(env.observation_space(other), environment.observation, name)
        except Exception:  # a user's space may raise anything for NaN
            return False
        return (actions, counts) == (environment.action_space, environment.num_categories)

    return {name: x for name, x in real.items() if is_free(name)}


def _is_real(x: Any) -> bool:
    return isinstance(x, float) or (hasattr(x, "dtype") and x.shape == () and jnp.issubdtype(x.dtype, jnp.floating))


def _space(env: Any, which: str, params: Any, name: str) -> Any:
    try:
        return getattr(env, which)(params)
    except (AttributeError, NotImplementedError) as error:
        raise SettingError("environment", name, f"has no {which}: {' '.join(str(error).split())}") from error


def _limit(params: Any, name: str) -> int:
    """gymnax's time limit."""
    steps = getattr(params, "max_steps_in_episode", None)
    if steps is None:
        reason = f"is not a limit for {name!r}, whose parameters have no max_steps_in_episode; give horizon="
        raise SettingError("horizon", None, reason)
    try:
        whole = int(steps)
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if whole < 1 or whole != steps:
        raise SettingError("max_steps_in_episode", steps, f"of {name!r} must be a whole number, at least 1")
    return whole
