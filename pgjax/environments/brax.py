"""brax environments: the raw task without brax's wrappers, with a time limit. brax is imported when first used.

The task's `done` is termination; reaching the step limit is truncation. Both can be true on one step. The final
observation is that of the ended episode. (brax's wrappers merge both flags and return the observation after the reset.)

Actions of brax's own tasks are numbers from −1 to 1. Some tasks scale them to the range of their actuators
(inverted_pendulum ±3, pusher ±2, humanoid and humanoidstandup ±0.4). In ant, halfcheetah, hopper,
inverted_double_pendulum, reacher, swimmer and walker2d the range is ±1 and the actuator clips. `fast` uses the sign.
"""

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import whole_steps
from pgjax.environments.packages import cannot_be_made, known_name, load
from pgjax.types import Box, Environment, SettingError

PREFIX = "brax/"
"""Prefix of the names of these environments."""

EXTRA = "brax"
"""The extra of pgjax that installs the package."""


class Running(NamedTuple):
    """A brax state without its metrics, and the number of steps so far."""

    brax: Any
    steps: Array


def available() -> list[str]:
    """Names that `make` knows, with those registered by `brax.envs.register_environment`. Raises without brax."""
    return [PREFIX + name for name in _import_envs(PREFIX)._envs]


def factory(name: str) -> Callable:
    """The constructor of a name. Raises if brax is not installed or the name is unknown."""
    known = _import_envs(name)._envs
    return known[known_name(name, PREFIX, known)]


def make(name: str, *, episode_length: int = 1000, **settings: Any) -> Environment:
    """Make an environment by its brax name after "brax/", truncated after `episode_length` steps (brax's default).

    `settings` are arguments of the task's constructor, such as `backend`: "generalized" (the default), "spring",
    "positional" or "mjx".
    """
    envs = _import_envs(name)
    factory(name)
    try:
        with warnings.catch_warnings():  # hide brax's notice that its physics are no longer developed
            warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
            env = envs.get_environment(name.removeprefix(PREFIX), **settings)
    except (TypeError, ValueError) as error:
        raise cannot_be_made(name, settings, error) from error
    environment = from_brax(env, name=name, episode_length=episode_length)
    _check_runs(environment)
    return environment


def from_brax(env: Any, *, name: str, episode_length: int = 1000) -> Environment:
    """Wrap an object with the interface of `brax.envs.Env`, with actions from −1 to 1 and without automatic resets: the
    task without `EpisodeWrapper` and `AutoResetWrapper`. Episodes are truncated after `episode_length` steps.
    """
    whole_steps("episode_length", episode_length)

    def carried(state: Any) -> Any:
        return strong(state.replace(metrics={}))

    def reset(key: Array) -> tuple[Any, Running]:
        state = carried(env.reset(key))
        return state.obs, Running(state, jnp.int32(0))

    def step(key: Array, state: Running, action: Array) -> tuple[Any, Running, Array, Array, Array]:
        given = jax.tree.map(lambda x: x, state.brax)  # a copy, because tasks modify the dicts of their state
        after, steps = env.step(given, action), state.steps + 1
        terminated, truncated = jnp.bool_(after.done), steps >= episode_length
        kept = carried(after)
        return kept.obs, Running(kept, steps), after.reward, terminated, truncated

    size = int(env.action_size)
    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=jax.eval_shape(reset, jax.random.key(0))[0],
        num_categories=None,
        action_space=Box((-1.0,) * size, (1.0,) * size, (size,)),
        horizon=episode_length,
    )


def _check_runs(environment: Environment) -> None:
    """Trace one step: a task that uses functions removed from jax fails only there."""
    key, action = jax.random.key(0), jnp.zeros(environment.action_space.shape)  # type: ignore[union-attr]
    try:
        jax.eval_shape(environment.step, key, jax.eval_shape(environment.reset, key)[1], action)
    except Exception as error:  # depends on the removed function
        reason = f"does not run with jax {jax.__version__}: {' '.join(str(error).split())}"
        raise SettingError("environment", environment.name, reason) from error


def _import_envs(name: str) -> ModuleType:
    return load("brax.envs", name, EXTRA)
