"""Small gymnax environments as exact tables, so that a neural policy's true gradient is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.oracle.mdp import MDP, LogPolicy, make_mdp
from pgjax.types import Agent, Params, SettingError


class Tabular(NamedTuple):
    """An environment's exact tables, and the observation that stands for each state.

    Rewards are means given state and action: J, V, Q and ∇J are exact; an estimator's variance on the real environment
    is larger where its reward is random beyond that.

    >>> from pgjax import Categorical
    >>> mdp = make_mdp([1.0, 0.0], np.zeros((2, 2, 2)), np.zeros((2, 2)), horizon=1)
    >>> linear = Agent(init=None, policy=lambda params, x: Categorical(x @ params))
    >>> table = Tabular(mdp, jnp.eye(2)).log_policy(linear)(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])))
    >>> bool(jnp.allclose(jnp.exp(table), jnp.array([[0.5, 0.5], [0.25, 0.75]])))
    True
    """

    mdp: MDP
    observations: Array  # [S, ...]

    def log_policy(self, agent: Agent) -> LogPolicy:
        """A neural policy as the table log π(a|s), [S, A], a function of the agent's params."""

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


# How to take the chance out of an environment's steps: the same one without it, and the probability of each executed
# action given the chosen one. Starts are equally likely in all of them.
_CHANCE: dict[str, Callable[[Any, Any], tuple[Any, Any, np.ndarray]]] = {
    "FrozenLake-misc": _frozen_lake,
    "FourRooms-misc": _four_rooms,
    "Catch-bsuite": _steady,
    "DeepSea-bsuite": _steady,
}


def from_gymnax(name: str, *, horizon: int | None = None, discount: float = 1.0, **settings: Any) -> Tabular:
    """Turn a small gymnax environment into exact tables by visiting every state it can reach.

    Args:
      name: FrozenLake-misc, FourRooms-misc, Catch-bsuite or DeepSea-bsuite.
      horizon: of the tables; default the environment's own limit.
      discount: γ.
      settings: for the environment's constructor.

    Raises:
      SettingError: for an environment whose chance is not known in closed form.

    >>> tables = from_gymnax("FrozenLake-misc")
    >>> tables.mdp.transition.shape, float(tables.mdp.transition[0, 0].max().round(3))
    ((11, 4, 11), 0.667)
    """
    import gymnax

    if name not in _CHANCE:
        raise SettingError("environment", name, f"has no exact tables here; there are {', '.join(_CHANCE)}")
    original, params = gymnax.make(name, **settings)
    limit = int(params.max_steps_in_episode)
    env, params, executed = _CHANCE[name](original, params)
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
