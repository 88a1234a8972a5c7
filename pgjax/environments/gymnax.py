"""gymnax in, `Environment` out: two pure functions with termination and truncation apart. Imports gymnax lazily.

A name that begins with "brax/" is brax's: see `pgjax.environments.brax`.
"""

import ast
import difflib
import functools
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.environments import brax as brax_environments
from pgjax.environments.dtypes import strong
from pgjax.types import Box, Discrete, Environment, SettingError

# Episodes that end by themselves well before gymnax's own limit: after how many steps, at most.
_SHORT_EPISODES: dict[str, Any] = {
    "Catch-bsuite": lambda env, params: env.rows - 1,
    "MemoryChain-bsuite": lambda env, params: params.memory_length + 1,
    "UmbrellaChain-bsuite": lambda env, params: params.chain_length,
    "SimpleBandit-bsuite": lambda env, params: 1,
}


def available() -> list[str]:
    """gymnax's names that `make` knows, those registered with `gymnax.register` included.

    brax's are listed by `brax_environments.available`: to know them is to import brax.

    >>> "CartPole-v1" in available()
    True
    """
    import gymnax

    return list(gymnax.registered_envs)


@functools.cache
def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its gymnax name, or a brax name behind "brax/", with `settings` for its constructor.

    gymnax's parameters count as settings too. A name can carry settings itself, as text:
    "FrozenLake-misc:map_name=8x8", "Acrobot-v1:max_steps_in_episode=200". The same arguments give the same object, so
    that programs compiled for it are found again.

    Raises:
      SettingError: for an unknown name, with the closest known one; for a setting that it does not have; for a brax
        name where brax is not installed.

    >>> make("CartPole-v1").horizon
    500
    >>> make("DeepSea-bsuite:size=10").observation.shape
    (10, 10)
    """
    plain, *written = name.split(":")
    settings = dict(map(_setting, written)) | settings
    if plain.startswith(brax_environments.PREFIX):
        return brax_environments.make(plain, **settings)
    import gymnax

    if plain not in gymnax.registered_envs:
        by_lower = {known.lower(): known for known in gymnax.registered_envs}
        close = difflib.get_close_matches(plain.lower(), by_lower, n=1, cutoff=0.0)
        raise SettingError("environment", plain, f"is not known; the closest name is {by_lower[close[0]]}")
    try:
        parameters = {field.name for field in fields(gymnax.make(plain)[1])}
        env, params = gymnax.make(plain, **{k: v for k, v in settings.items() if k not in parameters})
        params = params.replace(**{k: v for k, v in settings.items() if k in parameters})
        short = _SHORT_EPISODES.get(plain)
        horizon = min(int(params.max_steps_in_episode), short(env, params) if short else 1 << 30)
    except (TypeError, ValueError, OSError) as error:  # OSError: MNISTBandit downloads its data
        raise SettingError("environment", name, f"cannot be made: {error}") from error
    return from_gymnax(env, params, name=name, horizon=horizon)


def _setting(text: str) -> tuple[str, Any]:
    """name=value, the value a Python number or bool, or else text."""
    name, given, value = text.partition("=")
    if not given:
        raise SettingError("environment", text, "must be a setting name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def from_gymnax(env: Any, params: Any, *, name: str | None = None, horizon: int | None = None) -> Environment:
    """Wrap any object with gymnax 1.0's interface (`reset_env`, `step_env`, `is_truncated`, the spaces).

    Args:
      env: the environment object.
      params: its parameters; numbers in it may be traced.
      name: what to call it; default the object's own name.
      horizon: steps after which every episode has ended; default `params.max_steps_in_episode`.

    >>> import gymnax
    >>> environment = from_gymnax(*gymnax.make("CartPole-v1"))
    >>> environment.action_space, environment.observation.shape, environment.horizon
    (Discrete(n=2), (4,), 500)
    """

    def reset(key: Array) -> tuple[Any, Any]:
        return strong(env.reset_env(key, params))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
        truncated = env.is_truncated(state, params)
        observation, state = strong((observation, state))
        return observation, state, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated)

    space = env.observation_space(params)
    return Environment(
        name=name or env.name,
        reset=reset,
        step=step,
        observation=jax.eval_shape(reset, jax.random.key(0))[0],
        num_categories=int(space.n) if hasattr(space, "n") else None,
        action_space=_action_space(env.action_space(params)),
        horizon=int(params.max_steps_in_episode) if horizon is None else horizon,
    )


def _action_space(space: Any) -> Discrete | Box:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    shape = tuple(space.shape)
    low, high = (np.broadcast_to(np.asarray(b, np.float32), shape) for b in (space.low, space.high))
    return Box(tuple(low.ravel().tolist()), tuple(high.ravel().tolist()), shape)
