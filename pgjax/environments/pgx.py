"""pgx's single-player games. pgx is imported when first used.

The end of a game is termination. The games have no time limit (Freeway's timer ends the game) and some need never end,
so `max_steps` truncates episodes. Both can be true on one step. Games with illegal moves, such as 2048, have
observations {"observation": ..., "action_mask": ...}, and a policy never takes a masked action. (pgx would end the game
with reward −1.) After the end of a game the mask is all true.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import Counted, whole_steps
from pgjax.environments.packages import known_name, load, made, making
from pgjax.environments.space_records import Discrete
from pgjax.environments.spaces import action_space
from pgjax.types import ACTION_MASK, Environment, SettingError

PREFIX = "pgx/"
"""Prefix of the names of these environments."""

EXTRA = "pgx"
"""The extra of pgjax that installs the package."""

_MAX_STEPS = {  # default time limits
    "2048": 4000,
    "minatar-asterix": 1000,
    "minatar-breakout": 1000,
    "minatar-freeway": 2500,
    "minatar-seaquest": 1000,
    "minatar-space_invaders": 1000,
}


def available() -> list[str]:
    """Names of pgx's single-player games. Raises if pgx is not installed."""
    return [PREFIX + name for name in _games(PREFIX) if name in _MAX_STEPS]


def factory(name: str) -> Callable:
    """pgx's `make`. Raises if pgx is not installed, the name is unknown, or the game has several players."""
    games = _games(name)
    if name.removeprefix(PREFIX) in set(games) - set(_MAX_STEPS):
        raise SettingError("environment", name, "is a game of several players; only single-player games are supported")
    known_name(name, PREFIX, [game for game in games if game in _MAX_STEPS])
    return load("pgx", name, EXTRA).make


def make(name: str, *, max_steps: int | None = None, **settings: Any) -> Environment:
    """Make a game by its pgx name after "pgx/", such as "pgx/2048".

    `max_steps` is the number of steps after which an episode is truncated; default 4000 in 2048, 2500 in Freeway, else
    1000. `settings` are arguments of the game's constructor, such as `sticky_action_prob` in MinAtar.
    """
    pgx_make, plain = factory(name), name.removeprefix(PREFIX)
    env = pgx_make(plain)
    masked, limit = not plain.startswith("minatar-"), _MAX_STEPS[plain] if max_steps is None else max_steps
    with making(name, settings):
        env = type(env)(**settings) if settings else env
        return made(from_pgx(env, name=name, max_steps=limit, masked=masked), settings)


def from_pgx(env: Any, *, name: str, max_steps: int, masked: bool = True) -> Environment:
    """Wrap a single-player `pgx.Env`, truncated after `max_steps`; `masked` adds legal actions to observations."""
    limit = whole_steps("max_steps", max_steps)
    if env.num_players != 1:
        raise SettingError("environment", name, f"has {env.num_players} players; needs a single-player game")

    def seen(state: Any) -> Any:
        return {"observation": state.observation, ACTION_MASK: state.legal_action_mask} if masked else state.observation

    def reset(key: Array) -> tuple[Any, Counted]:
        state = strong(env.init(key))
        return seen(state), Counted(state, jnp.int32(0))

    def step(key: Array, state: Counted, action: Array) -> tuple[Any, Counted, Array, Array, Array]:
        after, steps = strong(env.step(state.state, action, key)), state.steps + 1
        return seen(after), Counted(after, steps), after.rewards[0], after.terminated, steps >= limit

    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0],
        num_categories=None,
        action_space=action_space(Discrete(int(env.num_actions)), name),
        horizon=limit,
    )


def _games(name: str) -> list[str]:
    return list(load("pgx", name, EXTRA).available_envs())
