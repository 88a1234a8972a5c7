"""Evaluation of many runs on the same episodes, at the end or while they train."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pgjax import counters
from pgjax.engine import hosts
from pgjax.engine.compiling import Program
from pgjax.engine.devices import SEED_AXIS
from pgjax.environments.parameters import check_parameters, with_parameters
from pgjax.sweeps.runs import Runs, spread_over
from pgjax.training.evaluation import evaluate
from pgjax.training.keys import as_key
from pgjax.types import Agent, Environment, Params, SettingError, Trainer

EVALUATION_KEY = 1 << 31
"""Of evaluation while runs train and at their end. Seeds are below it: evaluation never repeats a training key."""

RETURNS = ("sampled_return", "greedy_return")
"""What an evaluation measures; the key of each is EVALUATION_KEY plus its place here."""


def evaluation_point(trainer: Trainer, runs: Runs, episodes: int = 64) -> dict[str, np.ndarray]:
    """Where runs stand, and how good their policies are: env_steps, sampled_return and greedy_return, each [R].

    Returns are undiscounted, means of the same `episodes` episodes at every point and for every run. They have keys of
    their own, and nothing of training changes.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> point = evaluation_point(trainer, sweeps.start(trainer, reinforce().algorithm, seeds=2), episodes=4)
    >>> {name: values.shape for name, values in point.items()}
    {'env_steps': (2,), 'sampled_return': (2,), 'greedy_return': (2,)}
    """
    point = {"env_steps": hosts.fetch(runs.state.env_steps)}
    for place, name in enumerate(RETURNS):
        key, greedy = jax.random.key(EVALUATION_KEY + place), name == "greedy_return"
        returns = evaluate_runs(trainer.environment, trainer.agent, runs, key, episodes=episodes, greedy=greedy)
        point[name] = returns.mean(axis=1)
    return point


def points_passed(env_steps: np.ndarray, every: int) -> int:
    """How many multiples of `every` the mean of the runs' environment steps [R] has reached: exact, in integers.

    Runs are evaluated together, at the end of the chunk in which this number grows.

    >>> points_passed(np.array([900, 1100]), every=500), points_passed(np.array([900, 1098]), every=500)
    (2, 1)
    """
    return int(np.sum(env_steps, dtype=np.int64)) // (every * len(env_steps))


def evaluate_runs(
    environment: Environment,
    agent: Agent,
    runs: Runs,
    key: Array,
    *,
    episodes: int = 64,
    greedy: bool = False,
    environment_parameters: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Evaluate every run's policy on the same evaluation episodes: undiscounted returns, [R, episodes].

    A run that was trained with parameters of the environment of its own is evaluated with these.

    Args:
      environment: where to act.
      agent: whose policies.
      runs: the runs.
      key: evaluation's own, of either kind (`jax.random.key`, `jax.random.PRNGKey`); never one that training has used.
      episodes: how many.
      greedy: the most likely action instead of a sampled one.
      environment_parameters: name -> number, the same for all runs, instead of their own; {} for the environment as it
        is.

    Raises:
      SettingError: for a key that is none, no number of episodes, or parameters that cannot vary there.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = sweeps.start(trainer, reinforce().algorithm, over={"learning_rate": [0.1, 0.01]})
    >>> first, second = evaluate_runs(env, make_agent(env, hidden=()), runs, jax.random.key(1), episodes=8)
    >>> first.shape, bool((first == second).all())  # not trained yet: one seed, one policy
    ((8,), True)
    """
    episodes, key = counters.count("episodes", episodes), as_key(key)
    if key.shape:
        raise SettingError("key", f"{list(key.shape)} keys", "must be one key")
    values = runs.algorithm.environment
    if environment_parameters is not None:
        with_parameters(environment, environment_parameters)  # refuses what is no number
        check_parameters(environment, environment_parameters)
        values = {name: jnp.full(len(runs.seeds), x, jnp.float32) for name, x in environment_parameters.items()}
    returns = _evaluate(environment, agent, episodes, bool(greedy), runs.mesh, (runs.state.params, values), key)
    return hosts.fetch(returns)


@partial(Program, static_argnums=(0, 1, 2, 3, 4))
def _evaluate(
    environment: Environment, agent: Agent, episodes: int, greedy: bool, mesh: Mesh, each: tuple, key: Array
) -> Array:
    def one(each: tuple[Params, Any], key: Array) -> Array:
        params, values = each
        how = {"episodes": episodes, "greedy": greedy, "environment_parameters": values}
        return evaluate(environment, agent, params, key, **how)

    return spread_over(jax.vmap(one, in_axes=(0, None)), mesh, (P(SEED_AXIS), P()), P(SEED_AXIS))(each, key)
