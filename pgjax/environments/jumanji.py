"""Jumanji environments. jumanji is imported when first used.

A time limit is truncation here. Most Jumanji environments end an episode at their `time_limit` with discount 0, as if
terminated. They are given a limit of one more step, so that their flag means termination only, and steps are counted
separately. SearchAndRescue scales rewards by its limit, so it keeps it, and its termination is read from its state.
Both flags can be true on one step.

Packing, colouring, routes, Minesweeper and Sudoku have no time limit: episodes terminate, and are truncated only by a
given `time_limit`. 2048 terminates without a known bound and is truncated after 4000 steps. For MultiCVRP the bound on
a route's length counts as termination.

Array actions with one mask entry per combination (BinPack, FlatPack, Minesweeper, Sudoku, Tetris) become one number, so
that the mask applies. Rewards of several agents are added. Their episode terminates when no agent continues. Step
counts in observations are divided by the longest episode. Codes declared as a range are categories; where −1 is among
them, it is encoded as all zeros.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.environments import space_records as records
from pgjax.environments.dtypes import strong
from pgjax.environments.limits import Counted, whole_steps
from pgjax.environments.packages import Entry, known_name, load, made, making
from pgjax.environments.spaces import action_space, categories
from pgjax.types import ACTION_MASK, Environment, SettingError

PREFIX = "jumanji/"
"""Prefix of the names of these environments."""

EXTRA = "jumanji"
"""The extra of pgjax that installs the package."""

_DOWNLOADS = ("Sokoban",)
"""Environments whose default generator downloads levels."""

# Maximum episode lengths of environments that terminate by themselves.
_LONGEST: dict[str, Callable[[Any], int]] = {
    "BinPack": lambda env: env.generator.max_num_items,
    "CVRP": lambda env: 2 * env.num_nodes,
    "FlatPack": lambda env: env.num_blocks,
    "GraphColoring": lambda env: env.num_nodes,
    "JobShop": lambda env: env.num_jobs * env.max_num_ops * env.max_op_duration,
    "Knapsack": lambda env: env.num_items,
    "Minesweeper": lambda env: env.num_rows * env.num_cols - env.num_mines,
    "MultiCVRP": lambda env: 2 * env._num_customers + 1,
    "Sudoku": lambda env: 81,
    "TSP": lambda env: env.num_cities,
}

_UNLIMITED = {"Game2048": 4000}
"""Default time limits of environments that terminate by themselves without a known bound."""

_OWN_END: dict[str, Callable[[Any], Array]] = {"SearchAndRescue": lambda state: state.targets.found.all()}
"""Termination read from the state, for environments that use their time limit for more than the end."""

_STEPS = ("step_count", "step")
"""Parts of observations that count steps."""

_AMOUNTS = (*_STEPS, "num_mines", "ops_durations", "machines_remaining_times", "demands", "capacities")
"""Parts of observations that are declared as a range but are amounts, not codes."""


_MASK_TOO_SHORT = "MultiCVRP-v0"
"""An environment that `make` rejects: its mask has one choice fewer than its actions."""


def available() -> list[str]:
    """Names that can be made, with those registered by `jumanji.register`; without those that download levels."""
    known = _registration(PREFIX)._REGISTRY
    return [PREFIX + name for name, spec in known.items() if not _downloads(spec) and name != _MASK_TOO_SHORT]


def factory(name: str) -> Entry:
    """The class and arguments of a name. Raises if jumanji is not installed or the name is unknown."""
    spec = _spec(name)
    return Entry.of(_registration(name).load(spec.entry_point), spec)


def make(name: str, *, time_limit: int | None = None, **settings: Any) -> Environment:
    """Make an environment by its name after "jumanji/", such as "jumanji/Snake-v1".

    `time_limit` is the number of steps after which an episode is truncated; default: the environment's own. `settings`
    are arguments of its constructor, such as `generator`. Levels that would be downloaded are rejected.
    """
    made_of = factory(name)
    takes, spec = inspect.signature(made_of.kind).parameters, made_of.spec
    if _downloads(spec) and "generator" not in settings:
        raise SettingError("environment", name, "downloads its levels; give a generator that creates them")
    given = settings | ({} if time_limit is None else {"time_limit": whole_steps("time_limit", time_limit)})
    with making(name, given):
        env = _registration(name).make(spec.id, **{k: v for k, v in given.items() if k != "time_limit" or k in takes})
        return made(from_jumanji(env, name=name, time_limit=time_limit), settings)


def from_jumanji(env: Any, *, name: str, time_limit: int | None = None) -> Environment:
    """Wrap a `jumanji.env.Environment` without wrappers, truncated after `time_limit` steps; default: its own."""
    if env.unwrapped is not env:
        raise SettingError("environment", name, f"is wrapped in {type(env).__name__}; remove that wrapper")
    kind = type(env).__name__
    limit, horizon = _limits(env, name, time_limit)
    own_end = _OWN_END.get(kind)
    timeless = env if limit is None or own_end else _with_limit(env, limit + 1)
    nvec = _joint(env)

    def seen(observation: Any) -> Any:
        shares = {part: getattr(observation, part) / horizon for part in _STEPS if hasattr(observation, part)}
        flat = {} if nvec is None else {ACTION_MASK: observation.action_mask.reshape(-1)}
        return _changed(observation, shares | flat)

    def reset(key: Array) -> tuple[Any, Counted]:
        state, timestep = strong(timeless.reset(key))
        return seen(timestep.observation), Counted(state, jnp.int32(0))

    def step(key: Array, state: Counted, action: Array) -> tuple[Any, Counted, Array, Array, Array]:
        action = action if nvec is None else jnp.stack(jnp.unravel_index(action, nvec)).astype(jnp.int32)
        after, timestep = strong(timeless.step(state.state, action))
        steps, last = state.steps + 1, timestep.last()
        ended = own_end(after) if own_end else last & (timestep.discount == 0).all()
        cut = jnp.bool_(False) if limit is None else steps >= limit
        return seen(timestep.observation), Counted(after, steps), timestep.reward.sum(), ended, cut | (last & ~ended)

    observation = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0]
    number = records.Discrete(int(np.prod(nvec))) if nvec is not None else _actions(env.action_spec)
    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=observation,
        num_categories=categories(_parts(env.observation_spec), observation, name),
        action_space=action_space(number, name),
        horizon=horizon,
    )


def _limits(env: Any, name: str, time_limit: int | None) -> tuple[int | None, int]:
    """The number of steps after which an episode is truncated (or None), and after which it has ended."""
    kind = type(env).__name__
    limit = next(
        (x for x in (time_limit, getattr(env, "time_limit", None), _UNLIMITED.get(kind)) if x is not None), None
    )
    limit = None if limit is None else whole_steps("time_limit", limit)
    longest = int(_LONGEST[kind](env)) if kind in _LONGEST else None
    if limit is None and longest is None:
        raise SettingError("time_limit", None, f"of environment {name!r} is not known; give one")
    return limit, min(x for x in (limit, longest) if x is not None)


def _with_limit(env: Any, limit: int) -> Any:
    """The environment with another time limit, if it has one; its specs are unchanged."""
    if not hasattr(env, "time_limit"):
        return env
    other = copy.copy(env)
    other.time_limit = limit
    return other


def _changed(observation: Any, parts: dict[str, Any]) -> Any:
    """An observation (NamedTuple or chex dataclass) with some parts replaced."""
    if not parts:
        return observation
    return observation._replace(**parts) if hasattr(observation, "_replace") else observation.replace(**parts)


def _joint(env: Any) -> tuple[int, ...] | None:
    """Numbers of values of an array action whose mask has one entry per combination; else None."""
    nvec, mask = getattr(env.action_spec, "num_values", None), getattr(env.observation_spec, ACTION_MASK, None)
    if nvec is None or np.ndim(nvec) != 1 or mask is None or tuple(mask.shape) != tuple(np.asarray(nvec).tolist()):
        return None
    return tuple(mask.shape) if len(mask.shape) > 1 else None


def _actions(spec: Any) -> Any:
    """An action spec as a record: one number, an array of numbers, or a box."""
    if hasattr(spec, "num_values"):
        return records.MultiDiscrete(np.asarray(spec.num_values)) if spec.shape else records.Discrete(spec.num_values)
    low, high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
    if np.issubdtype(spec.dtype, np.integer) and not low.any():
        return records.MultiDiscrete(high + 1)
    return records.Box(low, high, tuple(spec.shape), spec.dtype)


def _parts(spec: Any, name: str = "") -> Any:
    """An observation spec as nested records by name: ranges from 0 or −1 are codes, all else numbers."""
    if spec._specs:
        return records.Dict({part: _parts(inner, part) for part, inner in spec._specs.items()})
    low, high = (getattr(spec, bound, None) for bound in ("minimum", "maximum"))
    if low is not None and high is not None and np.issubdtype(spec.dtype, np.integer) and name not in _AMOUNTS:
        count = int(np.max(high)) + 1
        if int(np.min(low)) in (-1, 0) and count > 2:
            return records.codes(count, tuple(spec.shape))
    return records.Box(low, high, tuple(spec.shape), spec.dtype)


def _downloads(spec: Any) -> bool:
    return spec.entry_point.partition(":")[2] in _DOWNLOADS and "generator" not in spec.kwargs


def _spec(name: str) -> Any:
    """Jumanji's registry entry of a name."""
    known = _registration(name)._REGISTRY
    return known[known_name(name, PREFIX, known)]


def _registration(name: str) -> Any:
    load("jumanji", name, EXTRA)  # registers its environments
    return load("jumanji.registration", name, EXTRA)
