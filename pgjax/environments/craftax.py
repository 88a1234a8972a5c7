"""Craftax with symbolic observations. craftax is imported when first used.

Death, lava in Craftax-Classic and the defeated boss in Craftax are termination; `max_timesteps` is truncation. Both can
be true on one step. Craftax has one flag for both, so it is given a limit of one more step and its flag then means
termination only. Episodes are long: at most 10 000 steps in Classic and 100 000 in Craftax. Train with streaming
rollouts, and evaluate with a smaller `max_timesteps`, since all random numbers of a whole episode are drawn at its
start.
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
"""Prefix of the names of these environments."""

EXTRA = "craftax"
"""The extra of pgjax that installs the package."""

_CLASSES = {  # without automatic resets
    "Craftax-Symbolic-v1": ("craftax.craftax.envs.craftax_symbolic_env", "CraftaxSymbolicEnvNoAutoReset"),
    "Craftax-Classic-Symbolic-v1": (
        "craftax.craftax_classic.envs.craftax_symbolic_env",
        "CraftaxClassicSymbolicEnvNoAutoReset",
    ),
}


def available() -> list[str]:
    """The names that `make` knows. Raises if craftax is not installed."""
    load("craftax.craftax_env", PREFIX, EXTRA)
    return [PREFIX + name for name in _CLASSES]


def factory(name: str) -> Any:
    """The class of a name. Raises if craftax is not installed or the name is unknown."""
    module, kind = _CLASSES[known_name(name, PREFIX, _CLASSES)]
    return getattr(load(module, name, EXTRA), kind)


def make(name: str, **settings: Any) -> Environment:
    """Make "craftax/Craftax-Symbolic-v1" or "craftax/Craftax-Classic-Symbolic-v1".

    `settings` are its parameters, such as `max_timesteps` (truncation), or its static parameters, such as `map_size`.
    """
    kind = factory(name)
    static, params = kind.default_static_params(), kind().default_params
    static_names, param_names = ({field.name for field in fields(x)} for x in (static, params))
    for setting, value in settings.items():
        if setting not in static_names | param_names:
            known = ", ".join(sorted(static_names | param_names))
            raise SettingError("environment", name, f"cannot be made with {setting}={value!r}; it has {known}")
    with making(name, settings):
        env = kind(static.replace(**{k: v for k, v in settings.items() if k in static_names}))
        params = params.replace(**{k: v for k, v in settings.items() if k in param_names})
        others = {setting: value for setting, value in settings.items() if setting != "max_timesteps"}
        return made(from_craftax(env, params, name=name), others)


def from_craftax(env: Any, params: Any, *, name: str) -> Environment:
    """Wrap a craftax environment of a class without automatic resets, with its parameters."""
    limit = whole_steps("max_timesteps", params.max_timesteps)
    unlimited = params.replace(max_timesteps=limit + 1)

    def reset(key: Array) -> tuple[Any, Any]:
        return strong(env.reset_env(key, unlimited))

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        observation, after, reward, ended, _ = env.step_env(key, state, action, unlimited)
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
