"""brax in, `Environment` out: the raw task without brax's wrappers, and a time limit beside it. Imports brax lazily.

A task's own `done` is termination, the step count reaching the limit is truncation; both may be true on one step, and
what is observed there is the end itself, as nothing resets here. (brax's own wrappers make one flag of the two and
return the observation after the reset.)

Actions are numbers from −1 to 1 for every task that comes with brax. Either the task stretches them to its actuators'
range (inverted_pendulum ±3, pusher ±2, humanoid and humanoidstandup ±0.4), or that range is ±1 itself and the actuator
clips (ant, halfcheetah, hopper, inverted_double_pendulum, reacher, swimmer, walker2d); `fast` looks at the sign alone.
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
"""What the names of these environments begin with."""

EXTRA = "brax"
"""The extra of pgjax that installs the package."""


class Running(NamedTuple):
    """A brax state without its metrics (reports that no task reads), and how many steps led to it."""

    brax: Any
    steps: Array


def available() -> list[str]:
    """Names that `make` knows, those registered with `brax.envs.register_environment` included.

    Raises:
      SettingError: if brax is not installed.
    """
    return [PREFIX + name for name in _import_envs(PREFIX)._envs]


def factory(name: str) -> Callable:
    """What brax makes a name of.

    Raises:
      SettingError: if brax is not installed; for an unknown name, with the closest known one.
    """
    known = _import_envs(name)._envs
    return known[known_name(name, PREFIX, known)]


def make(name: str, *, episode_length: int = 1000, **settings: Any) -> Environment:
    """Make an environment by its brax name behind "brax/"; `settings` go to the task's constructor.

    Args:
      name: such as "brax/inverted_pendulum".
      episode_length: steps after which an episode is truncated; brax's own default.
      **settings: of the task, such as `backend`: "generalized" (the default), "spring", "positional" or "mjx".

    Raises:
      SettingError: if brax is not installed; for an unknown name, with the closest known one; for settings
        that the task does not have; for a task whose code the installed jax cannot run.
    """
    envs = _import_envs(name)
    factory(name)
    try:
        with warnings.catch_warnings():  # that brax's physics are no longer developed is no news at every start
            warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
            env = envs.get_environment(name.removeprefix(PREFIX), **settings)
    except (TypeError, ValueError) as error:
        raise cannot_be_made(name, settings, error) from error
    environment = from_brax(env, name=name, episode_length=episode_length)
    _check_runs(environment)
    return environment


def from_brax(env: Any, *, name: str, episode_length: int = 1000) -> Environment:
    """Wrap any object with the interface of `brax.envs.Env`, taking actions from −1 to 1 and resetting nothing itself.

    Args:
      env: the task, without `EpisodeWrapper` and `AutoResetWrapper`.
      name: what to call it.
      episode_length: steps after which an episode is truncated.

    Raises:
      SettingError: for an episode without steps.
    """
    whole_steps("episode_length", episode_length)

    def carried(state: Any) -> Any:
        return strong(state.replace(metrics={}))

    def reset(key: Array) -> tuple[Any, Running]:
        state = carried(env.reset(key))
        return state.obs, Running(state, jnp.int32(0))

    def step(key: Array, state: Running, action: Array) -> tuple[Any, Running, Array, Array, Array]:
        given = jax.tree.map(lambda x: x, state.brax)  # a copy: tasks write into the dicts of what they are given
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
    """Trace one step: brax is no longer developed, and where it calls what jax has removed, only a step shows it."""
    key, action = jax.random.key(0), jnp.zeros(environment.action_space.shape)  # type: ignore[union-attr]
    try:
        jax.eval_shape(environment.step, key, jax.eval_shape(environment.reset, key)[1], action)
    except Exception as error:  # what it raises depends on what was removed
        reason = f"does not run with jax {jax.__version__}: {' '.join(str(error).split())}"
        raise SettingError("environment", environment.name, reason) from error


def _import_envs(name: str) -> ModuleType:
    return load("brax.envs", name, EXTRA)
