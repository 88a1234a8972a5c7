"""gymnax in, `Environment` out: two pure functions with termination and truncation apart. Imports gymnax lazily."""

import difflib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.base import check_environment
from pgjax.environments.dtypes import strong
from pgjax.environments.gymnax_steps import without_resets
from pgjax.environments.spaces import action_space, categories
from pgjax.types import Environment, SettingError

PREFIX = ""
"""What the names of these environments begin with: nothing."""

EXTRA = ""
"""The extra of pgjax that installs the package: gymnax comes with pgjax."""

# Episodes that end by themselves well before gymnax's own limit: after how many steps, at most.
_SHORT_EPISODES: dict[str, Any] = {
    "Catch-bsuite": lambda env, params: env.rows - 1,
    "MemoryChain-bsuite": lambda env, params: params.memory_length + 1,
    "UmbrellaChain-bsuite": lambda env, params: params.chain_length,
    "SimpleBandit-bsuite": lambda env, params: 1,
}


def available() -> list[str]:
    """gymnax's names, those registered with `gymnax.register` included.

    >>> "CartPole-v1" in available()
    True
    """
    import gymnax

    return list(gymnax.registered_envs)


def factory(name: str) -> Callable:
    """What gymnax makes a name of.

    Raises:
      SettingError: for an unknown name, with the closest known one.
    """
    from gymnax import registration

    known = registration._registry  # registered_envs lists names alone
    if name not in known:
        by_lower = {other.lower(): other for other in known}
        close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
        raise SettingError("environment", name, f"is not known; the closest name is {by_lower[close[0]]}")
    return known[name]


def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its gymnax name; `settings` are of its constructor, or among gymnax's parameters.

    Raises:
      SettingError: for a setting that it does not have.

    >>> make("Acrobot-v1", max_steps_in_episode=200).horizon
    200
    """
    import gymnax

    try:
        defaults = gymnax.make(name)[1]
        parameters = {field.name for field in fields(defaults)} if is_dataclass(defaults) else set()
        env, params = gymnax.make(name, **{k: v for k, v in settings.items() if k not in parameters})
        chosen = {k: v for k, v in settings.items() if k in parameters}
        params = params.replace(**chosen) if chosen else params
        short = _SHORT_EPISODES.get(name)
        horizon = min(_limit(params, name), short(env, params)) if short else None
    except SettingError:
        raise
    except (TypeError, ValueError, OSError) as error:  # OSError: MNISTBandit downloads its data
        raise SettingError("environment", name, f"cannot be made: {' '.join(str(error).split())}") from error
    return from_gymnax(env, params, name=name, horizon=horizon)


class Counted(NamedTuple):
    """The state of an environment that knows no time limit, and how many steps led to it."""

    state: Any
    steps: Array


def from_gymnax(env: Any, params: Any, *, name: str | None = None, horizon: int | None = None) -> Environment:
    """Wrap any object with gymnax 1.0's interface (`reset_env`, `step_env`, `is_truncated`, the spaces).

    gymnax's wrappers around it do what they do in gymnax: observations, rewards, actions, states and spaces are theirs.
    Only the reset after an episode's end is left out, so that the final observation is kept; so it is for an
    environment whose class has a `step` or `reset` of its own.

    Args:
      env: the environment object, or wrappers around one.
      params: its parameters; numbers in it may be traced.
      name: what to call it; default the object's own name.
      horizon: steps after which every episode has ended; default `params.max_steps_in_episode`. Where the environment
        knows no time limit, episodes are truncated there.

    Raises:
      SettingError: for spaces that no policy here can act in, a wrapper that cannot be honoured, or no limit at all.

    >>> import gymnax
    >>> environment = from_gymnax(*gymnax.make("CartPole-v1"))
    >>> environment.action_space, environment.observation.shape, environment.horizon
    (Discrete(n=2), (4,), 500)
    """
    name = name or str(getattr(env, "name", type(env).__name__))
    limit = _limit(params, name) if horizon is None else horizon
    steps = without_resets(env, params, name)

    def reset(key: Array) -> tuple[Any, Any]:
        observation, state = strong(steps.reset(key, params))
        return observation, state if steps.limited else Counted(state, jnp.int32(0))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        inner = state if steps.limited else state.state
        observation, inner, reward, terminated, truncated = steps.step(key, inner, action, params)
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
        action_space=action_space(_space(env, "action_space", params, name), name),
        horizon=limit,
    )
    if not steps.plain:
        check_environment(environment)  # what a wrapper does shows in a trace
    return environment


def _space(env: Any, which: str, params: Any, name: str) -> Any:
    try:
        return getattr(env, which)(params)
    except (AttributeError, NotImplementedError) as error:
        raise SettingError("environment", name, f"has no {which}: {' '.join(str(error).split())}") from error


def _limit(params: Any, name: str) -> int:
    """gymnax's time limit."""
    steps = getattr(params, "max_steps_in_episode", None)
    if steps is None:
        reason = f"is no limit for {name!r}, and its parameters have no max_steps_in_episode; give horizon="
        raise SettingError("horizon", None, reason)
    try:
        whole = int(steps)
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if whole < 1 or whole != steps:
        raise SettingError("max_steps_in_episode", steps, f"of {name!r} must be a whole number, at least 1")
    return whole
