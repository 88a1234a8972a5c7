"""Exact tables of small gymnax environments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.oracle.mdp import MDP, LogPolicy, make_mdp
from pgjax.types import Agent, Params, SettingError


class Tabular(NamedTuple):
    """An environment's exact tables, and the observation of each state.

    Rewards are means given state and action, so that J, V, Q and ∇J are exact. An estimator's variance on the
    environment is larger if its rewards have further randomness.
    """

    mdp: MDP
    observations: Array  # [S, ...]

    def log_policy(self, agent: Agent) -> LogPolicy:
        """The agent's policy as a function from params to the table log π(a|s), [S, A]."""

        def table(params: Params) -> Array:
            return agent.policy(params, self.observations).log_probs

        return table


def _frozen_lake(env: Any, params: Any) -> tuple[Any, Any, np.ndarray]:
    from gymnax.environments.misc.frozen_lake import FrozenLake

    tiles = ["".join("SFHG"[int(t)] for t in row) for row in env.desc]
    steady = FrozenLake(desc=tiles, is_slippery=False, reward_schedule=tuple(np.asarray(env.reward_schedule)))
    success = env.success_rate if env.is_slippery else 1.0
    slip = success * np.eye(4) + (1 - success) / 2 * (np.roll(np.eye(4), 1, 0) + np.roll(np.eye(4), -1, 0))
    return steady, params, slip


def _four_rooms(env: Any, params: Any) -> tuple[Any, Any, np.ndarray]:
    fails = float(params.fail_prob) * 4 / 3
    return env, params.replace(fail_prob=0.0), (1 - fails) * np.eye(4) + fails / 4


def _steady(env: Any, params: Any) -> tuple[Any, Any, np.ndarray]:
    return env, params, np.eye(env.num_actions)


# name -> function that returns a deterministic version of the environment, and the probability of each executed action
# given the chosen one. Start states are equally likely in all of them.
_DETERMINISTIC: dict[str, Callable[[Any, Any], tuple[Any, Any, np.ndarray]]] = {
    "FrozenLake-misc": _frozen_lake,
    "FourRooms-misc": _four_rooms,
    "Catch-bsuite": _steady,
    "DeepSea-bsuite": _steady,
}


def from_gymnax(name: str, *, horizon: int | None = None, discount: float = 1.0, **settings: Any) -> Tabular:
    """Convert a small gymnax environment to exact tables by visiting every reachable state.

    Args:
      name: FrozenLake-misc, FourRooms-misc, Catch-bsuite or DeepSea-bsuite.
      horizon: of the tables; default, and at most, the environment's time limit.
      settings: for the environment's constructor.

    >>> from_gymnax("FrozenLake-misc").mdp.transition.shape
    (11, 4, 11)
    """
    import gymnax

    if name not in _DETERMINISTIC:
        raise SettingError("environment", name, f"has no exact tables; must be one of {', '.join(_DETERMINISTIC)}")
    original, params = gymnax.make(name, **settings)
    limit = int(params.max_steps_in_episode)
    env, params, executed = _DETERMINISTIC[name](original, params)
    keys = jax.random.split(jax.random.key(0), 2048)
    step = jax.jit(jax.vmap(jax.vmap(lambda s, a: env.step_env(keys[0], s, a, params), (None, 0)), (0, None)))

    known: dict[bytes, int] = {}
    observations: list[np.ndarray] = []
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # successor, reward, terminated: [A] each

    def number(observation: np.ndarray) -> int:
        key = np.ascontiguousarray(observation).tobytes()
        if key not in known:
            known[key] = len(known)
            observations.append(observation)
        return known[key]

    first, states = jax.vmap(lambda key: env.reset_env(key, params))(keys)
    _, where = np.unique(np.asarray(first).reshape(len(keys), -1), axis=0, return_index=True)
    starts, frontier = len(where), jax.tree.map(lambda x: np.asarray(x)[where], states)
    for i in where:
        number(np.asarray(first)[i])
    while len(frontier.time):
        found, after, reward, terminated, _ = jax.device_get(step(frontier, jnp.arange(executed.shape[0])))
        fresh = []
        for i in range(len(frontier.time)):
            successor = np.zeros(executed.shape[0], int)
            for a in range(executed.shape[0]):
                if not terminated[i, a]:
                    before = len(known)
                    successor[a] = number(found[i, a])
                    if len(known) > before:
                        fresh.append((i, a))
            rows.append((successor, reward[i], terminated[i]))
        at = tuple(np.array(fresh, int).reshape(-1, 2).T)
        frontier = jax.tree.map(lambda x, at=at: x[at], after)
        frontier = frontier.replace(time=np.zeros(len(at[0]), int))

    size = len(known)
    successor, reward, terminated = (np.stack(column) for column in zip(*rows, strict=True))
    certain = np.where(terminated[..., None], 0.0, np.eye(size)[successor])  # [S, executed, S]
    mdp = make_mdp(
        np.where(np.arange(size) < starts, 1.0 / starts, 0.0),
        np.einsum("ae,sex->sax", executed, certain),
        reward.astype(np.float64) @ executed.T,
        horizon=min(limit, horizon or limit),
        discount=discount,
    )
    return Tabular(mdp, jnp.asarray(np.stack(observations)))
