"""Evaluate many runs on the same episodes, during or after training."""

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
"""Key of evaluations during and after training. Seeds are smaller, so no training key is repeated."""

RETURNS = ("sampled_return", "greedy_return")
"""Metrics of an evaluation. The key of each is EVALUATION_KEY plus its index here."""


def evaluation_point(trainer: Trainer, runs: Runs, episodes: int = 64) -> dict[str, np.ndarray]:
    """Evaluate runs during training: env_steps, sampled_return and greedy_return, each [R].

    Returns are undiscounted means over `episodes` episodes, the same for all runs and points. Separate keys leave
    training unaffected.
    """
    point = {"env_steps": hosts.fetch(runs.state.env_steps)}
    for place, name in enumerate(RETURNS):
        key, greedy = jax.random.key(EVALUATION_KEY + place), name == "greedy_return"
        returns = evaluate_runs(trainer.environment, trainer.agent, runs, key, episodes=episodes, greedy=greedy)
        point[name] = returns.mean(axis=1)
    return point


def points_passed(env_steps: np.ndarray, every: int) -> int:
    """How many multiples of `every` the mean environment steps of the runs [R] has reached, in exact integers."""
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
    """Evaluate every run's policy on the same episodes: undiscounted returns, [R, episodes].

    Args:
      key: a key that training does not use.
      greedy: take the most likely action instead of a sample.
      environment_parameters: name -> number for all runs, instead of those that each was trained with; {} for the
        environment's defaults.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> agent = make_agent(env, hidden=())
    >>> runs = sweeps.start(make_trainer(env, agent, Config(num_envs=2)), reinforce().algorithm, seeds=2)
    >>> evaluate_runs(env, agent, runs, jax.random.key(1), episodes=8).shape
    (2, 8)
    """
    episodes, key = counters.count("episodes", episodes), as_key(key)
    if key.shape:
        raise SettingError("key", f"{list(key.shape)} keys", "must be one key")
    values = runs.algorithm.environment
    if environment_parameters is not None:
        with_parameters(environment, environment_parameters)  # raises for values that are not numbers
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
