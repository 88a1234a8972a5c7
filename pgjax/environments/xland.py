"""XLand-MiniGrid environments. xminigrid is imported when first used.

Reaching the goal is termination, `max_steps` is truncation; both can be true on one step. Observations are the tiles in
front of the agent, [view, view, 2]: tile and colour, both codes, hence one-hot for a network. Names beginning with
MiniGrid are complete tasks. Those beginning with XLand-MiniGrid have no rules or goal until a `ruleset` is given.
xminigrid can download benchmarks of rulesets; pgjax does not.
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
"""Prefix of the names of these environments."""

EXTRA = "xland"
"""The extra of pgjax that installs the package."""


def available() -> list[str]:
    """Names that `make` knows, with those registered by `xminigrid.registration.register`. Raises without xminigrid."""
    return [PREFIX + name for name in _registration(PREFIX)._REGISTRY]


def factory(name: str) -> Entry:
    """The class and arguments of a name. Raises if xminigrid is not installed or the name is unknown."""
    known = _registration(name)._REGISTRY
    spec = known[known_name(name, PREFIX, known)]
    return Entry.of(_registration(name).load(spec.entry_point), spec)


def make(name: str, **settings: Any) -> Environment:
    """Make an environment by its name after "xland/", such as "xland/MiniGrid-DoorKey-5x5".

    `settings` are its parameters, such as `max_steps` (truncation), `view_size` and, for XLand's worlds, `ruleset`.
    """
    factory(name)
    with making(name, settings):
        env, params = load("xminigrid", name, EXTRA).make(name.removeprefix(PREFIX), **settings)
        return made(from_xland(env, params, name=name), settings)


def from_xland(env: Any, params: Any, *, name: str) -> Environment:
    """Wrap an `xminigrid.environment.Environment` with its parameters, without wrappers that reset."""
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
    """The space of tiles, two codes each; None for other observations, such as images."""
    constants = load("xminigrid.core.constants", name, EXTRA)
    shape = getattr(observation, "shape", ())
    is_tiles = len(shape) == 3 and shape[-1] == constants.NUM_LAYERS
    return codes(max(constants.NUM_TILES, constants.NUM_COLORS), shape) if is_tiles else None


def _registration(name: str) -> Any:
    load("xminigrid", name, EXTRA)  # registers its environments
    return load("xminigrid.registration", name, EXTRA)
