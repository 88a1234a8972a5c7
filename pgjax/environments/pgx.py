"""pgx's games for one player in, `Environment` out. Imports pgx lazily.

What ends a game is termination. No game here has a time limit of its own (Freeway's timer ends the game), and some
need never end, so that a limit stands beside them, `max_steps`: truncation. Both may be true on one step.

Where moves can be illegal, as in 2048, an observation is {"observation": ..., "action_mask": ...}; a policy never takes
what the mask rules out. (pgx would end the game there, with a reward of −1.) After a game's end the mask is all true.
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
"""What the names of these environments begin with."""

EXTRA = "pgx"
"""The extra of pgjax that installs the package."""

_MAX_STEPS = {  # how long a game is at most, unless `max_steps` says otherwise
    "2048": 4000,
    "minatar-asterix": 1000,
    "minatar-breakout": 1000,
    "minatar-freeway": 2500,
    "minatar-seaquest": 1000,
    "minatar-space_invaders": 1000,
}


def available() -> list[str]:
    """The names of pgx's games for one player.

    Raises:
      NotInstalled: if pgx is not installed.
    """
    return [PREFIX + name for name in _games(PREFIX) if name in _MAX_STEPS]


def factory(name: str) -> Callable:
    """What pgx makes a name of.

    Raises:
      NotInstalled: if pgx is not installed.
      SettingError: for an unknown name, with the closest known one; for a game of several players.
    """
    games = _games(name)
    if name.removeprefix(PREFIX) in set(games) - set(_MAX_STEPS):
        raise SettingError("environment", name, "is a game of several players; only those for one can be trained on")
    known_name(name, PREFIX, [game for game in games if game in _MAX_STEPS])
    return load("pgx", name, EXTRA).make


def make(name: str, *, max_steps: int | None = None, **settings: Any) -> Environment:
    """Make a game by its pgx name behind "pgx/".

    Args:
      name: such as "pgx/2048".
      max_steps: after which an episode is truncated; default 4000 in 2048, 2500 in Freeway, else 1000.
      **settings: of the game's constructor, such as `sticky_action_prob` of MinAtar's.

    Raises:
      NotInstalled: if pgx is not installed.
      SettingError: for an unknown name, with the closest known one; for settings that the game does not have.
    """
    pgx_make, plain = factory(name), name.removeprefix(PREFIX)
    env = pgx_make(plain)
    masked, limit = not plain.startswith("minatar-"), _MAX_STEPS[plain] if max_steps is None else max_steps
    with making(name, settings):
        env = type(env)(**settings) if settings else env
        return made(from_pgx(env, name=name, max_steps=limit, masked=masked), settings)


def from_pgx(env: Any, *, name: str, max_steps: int, masked: bool = True) -> Environment:
    """Wrap any `pgx.Env` of one player.

    Args:
      env: the game.
      name: what to call it.
      max_steps: after which an episode is truncated.
      masked: whether some actions can be illegal, so that the mask is observed.

    Raises:
      SettingError: for a game of several players; for an episode without steps.
    """
    limit = whole_steps("max_steps", max_steps)
    if env.num_players != 1:
        raise SettingError("environment", name, f"has {env.num_players} players; needs a game for one")

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
