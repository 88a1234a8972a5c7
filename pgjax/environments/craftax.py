"""Craftax with symbolic observations in, `Environment` out. Imports craftax lazily.

Death, lava in Craftax-Classic and the defeated boss in Craftax are termination; `max_timesteps` is truncation; both may
be true on one step. Craftax itself has one flag for both: it is given a limit of one step more, so that its flag says
the first alone. Episodes are long (10 000 steps at most in Classic, 100 000 in Craftax): train on streams of steps, and
evaluate under a `max_timesteps` of less, since a whole episode's random numbers are drawn at its start.
"""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import whole_steps
from pgjax.environments.packages import known_name, load, made, making
from pgjax.environments.spaces import action_space
from pgjax.types import Environment, SettingError

PREFIX = "craftax/"
"""What the names of these environments begin with."""

EXTRA = "craftax"
"""The extra of pgjax that installs the package."""

_CLASSES = {  # those that never reset by themselves
    "Craftax-Symbolic-v1": ("craftax.craftax.envs.craftax_symbolic_env", "CraftaxSymbolicEnvNoAutoReset"),
    "Craftax-Classic-Symbolic-v1": (
        "craftax.craftax_classic.envs.craftax_symbolic_env",
        "CraftaxClassicSymbolicEnvNoAutoReset",
    ),
}


def available() -> list[str]:
    """The names that `make` knows.

    Raises:
      NotInstalled: if craftax is not installed.
    """
    load("craftax.craftax_env", PREFIX, EXTRA)
    return [PREFIX + name for name in _CLASSES]


def factory(name: str) -> Any:
    """The class that a name stands for.

    Raises:
      NotInstalled: if craftax is not installed.
      SettingError: for an unknown name, with the closest known one.
    """
    module, kind = _CLASSES[known_name(name, PREFIX, _CLASSES)]
    return getattr(load(module, name, EXTRA), kind)


def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its name behind "craftax/".

    Args:
      name: "craftax/Craftax-Symbolic-v1" or "craftax/Craftax-Classic-Symbolic-v1".
      **settings: among its parameters, such as `max_timesteps`, after which an episode is truncated, or among its
        static parameters, such as `map_size`.

    Raises:
      NotInstalled: if craftax is not installed.
      SettingError: for an unknown name, with the closest known one; for parameters that it does not have.
    """
    kind = factory(name)
    static, params = kind.default_static_params(), kind().default_params
    of_static, of_params = ({field.name for field in fields(x)} for x in (static, params))
    for setting, value in settings.items():
        if setting not in of_static | of_params:
            known = ", ".join(sorted(of_static | of_params))
            raise SettingError("environment", name, f"cannot be made with {setting}={value!r}; it has {known}")
    with making(name, settings):
        env = kind(static.replace(**{k: v for k, v in settings.items() if k in of_static}))
        params = params.replace(**{k: v for k, v in settings.items() if k in of_params})
        others = {setting: value for setting, value in settings.items() if setting != "max_timesteps"}
        return made(from_craftax(env, params, name=name), others)


def from_craftax(env: Any, params: Any, *, name: str) -> Environment:
    """Wrap an environment of craftax of a class without resets.

    Args:
      env: the environment.
      params: its parameters.
      name: what to call it.

    Raises:
      SettingError: for an episode without steps.
    """
    limit = whole_steps("max_timesteps", params.max_timesteps)
    later = params.replace(max_timesteps=limit + 1)

    def reset(key: Array) -> tuple[Any, Any]:
        return strong(env.reset_env(key, later))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        observation, after, reward, ended, _ = env.step_env(key, state, action, later)
        return observation, strong(after), reward, jnp.bool_(ended), after.timestep >= limit

    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0],
        num_categories=None,
        action_space=action_space(env.action_space(params), name),
        horizon=limit,
    )
