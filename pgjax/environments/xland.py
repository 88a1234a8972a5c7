"""XLand-MiniGrid in, `Environment` out. Imports xminigrid lazily.

A reached goal is termination, `max_steps` truncation; both may be true on one step. Observations are a square of tiles
in front of the agent, [view, view, 2]: which tile, and which colour, both codes and so one-hot for a network.

The names beginning with MiniGrid are whole tasks. Those beginning with XLand-MiniGrid are worlds without rules or goal
until a `ruleset` is given: xminigrid downloads its benchmarks of rulesets, and nothing here does.
"""

from typing import Any

import jax
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import whole_steps
from pgjax.environments.packages import Entry, known_name, load, made, making
from pgjax.environments.space_records import Discrete, codes
from pgjax.environments.spaces import action_space, categories
from pgjax.types import Environment

PREFIX = "xland/"
"""What the names of these environments begin with."""

EXTRA = "xland"
"""The extra of pgjax that installs the package."""


def available() -> list[str]:
    """Names that `make` knows, those registered with `xminigrid.registration.register` included.

    Raises:
      NotInstalled: if xminigrid is not installed.
    """
    return [PREFIX + name for name in _registration(PREFIX)._REGISTRY]


def factory(name: str) -> Entry:
    """The class and the arguments that a name stands for.

    Raises:
      NotInstalled: if xminigrid is not installed.
      SettingError: for an unknown name, with the closest known one.
    """
    known = _registration(name)._REGISTRY
    spec = known[known_name(name, PREFIX, known)]
    return Entry.of(_registration(name).load(spec.entry_point), spec)


def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its name behind "xland/".

    Args:
      name: such as "xland/MiniGrid-DoorKey-5x5".
      **settings: among its parameters, such as `max_steps`, after which an episode is truncated, `view_size`, and for
        XLand's worlds `ruleset`.

    Raises:
      NotInstalled: if xminigrid is not installed.
      SettingError: for an unknown name, with the closest known one; for parameters that it does not have.
    """
    factory(name)
    with making(name, settings):
        env, params = load("xminigrid", name, EXTRA).make(name.removeprefix(PREFIX), **settings)
        return made(from_xland(env, params, name=name), settings)


def from_xland(env: Any, params: Any, *, name: str) -> Environment:
    """Wrap any `xminigrid.environment.Environment`, without its wrappers that reset.

    Args:
      env: the task.
      params: its parameters.
      name: what to call it.

    Raises:
      SettingError: for an episode without steps.
    """
    limit = whole_steps("max_steps", params.max_steps)

    def reset(key: Array) -> tuple[Any, Any]:
        timestep = strong(env.reset(params, key))
        return timestep.observation, timestep

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        after = strong(env.step(params, state, action))
        return after.observation, after, after.reward, after.discount == 0, after.state.step_num >= limit

    observation = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0]
    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=observation,
        num_categories=categories(_tiles(observation, name), observation, name),
        action_space=action_space(Discrete(env.num_actions(params)), name),
        horizon=limit,
    )


def _tiles(observation: Any, name: str) -> Any:
    """The space of tiles: two codes each; other observations, as of a wrapper with images, have none."""
    constants = load("xminigrid.core.constants", name, EXTRA)
    shape = getattr(observation, "shape", ())
    is_tiles = len(shape) == 3 and shape[-1] == constants.NUM_LAYERS
    return codes(max(constants.NUM_TILES, constants.NUM_COLORS), shape) if is_tiles else None


def _registration(name: str) -> Any:
    load("xminigrid", name, EXTRA)  # registers its environments
    return load("xminigrid.registration", name, EXTRA)
