"""Training shapes of the benchmark."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parts import peers
from pgjax import ALGORITHMS, Recipe, a2c, environments, make_agent, make_trainer, ppo, reinforce
from pgjax.policies.networks import MemoryKind
from pgjax.types import Agent, Environment, Trainer


class Shape(NamedTuple):
    """A method, sizes and number of updates to time."""

    name: str
    recipe: Recipe
    seeds: int = 1
    updates: int = 100
    environment: str = "CartPole-v1"
    horizon: int | None = None  # a time limit shorter than the environment's own
    memory: MemoryKind = "none"
    hidden: tuple[int, ...] = (64, 64)
    shared: bool = False  # one network for policy and critic, except for the last layer


def ppo_shape(num_envs: int, num_steps: int, seeds: int, updates: int, environment: str = "CartPole-v1") -> Shape:
    """PPO with the settings that all libraries have."""
    numbers = {name: value for name, value in peers.PPO.items() if name != "entropy_coefficient"}
    algorithm, config = ppo(standardise=True, **numbers)
    algorithm = algorithm._replace(entropy_coefficient=peers.PPO["entropy_coefficient"])
    config = replace(config, num_envs=num_envs, num_steps=num_steps, epochs=peers.PASSES, minibatches=peers.MINIBATCHES)
    place = "" if environment == "CartPole-v1" else environment.split("-")[0].lower() + "-"
    name = f"ppo-{place}{num_envs}x{num_steps}" + (f"-{seeds}seeds" if seeds > 1 else "")
    return Shape(name, Recipe(algorithm, config), seeds, updates, environment)


def reinforce_shape(num_envs: int, horizon: int, seeds: int, updates: int) -> Shape:
    """REINFORCE with reward-to-go and a baseline without a critic."""
    algorithm, config = reinforce(baseline="time_step", learning_rate=5e-3)
    name = f"reinforce-{num_envs}x{horizon}" + (f"-{seeds}seeds" if seeds > 1 else "")
    return Shape(name, Recipe(algorithm, replace(config, num_envs=num_envs)), seeds, updates, horizon=horizon)


def a2c_shape(num_envs: int, num_steps: int, updates: int) -> Shape:
    """A2C."""
    algorithm, config = a2c()
    config = replace(config, num_envs=num_envs, num_steps=num_steps)
    return Shape(f"a2c-{num_envs}x{num_steps}", Recipe(algorithm, config), updates=updates)


def gru_shape(num_envs: int, num_steps: int, updates: int) -> Shape:
    """PPO with a recurrent network: a layer, a GRU and a layer of 128; minibatches of whole environments."""
    shape = ppo_shape(num_envs, num_steps, 1, updates, "MemoryChain-bsuite")
    recipe = Recipe(shape.recipe.algorithm, replace(shape.recipe.config, shuffle="environments"))
    return shape._replace(name=f"ppo-gru-{num_envs}x{num_steps}", recipe=recipe, memory="gru", hidden=(128,))


def method_shape(method: str, num_envs: int, rows: int, updates: int) -> Shape:
    """A method with its default settings: streams of `rows` steps, or episodes of at most that many."""
    algorithm, config = ALGORITHMS[method]()
    stream = config.rollout == "stream"
    config = replace(config, num_envs=num_envs, num_steps=rows if stream else config.num_steps)
    name = f"{method}-{num_envs}x{rows}"
    return Shape(name, Recipe(algorithm, config), updates=updates, horizon=None if stream else rows)


SHAPES = (
    ppo_shape(4, 128, 1, 600),
    ppo_shape(4, 128, 16, 300),
    ppo_shape(1024, 128, 1, 20),
    reinforce_shape(64, 500, 1, 100),
    reinforce_shape(1024, 128, 1, 30),
    reinforce_shape(64, 500, 16, 60),
    a2c_shape(16, 5, 4000),
    method_shape("trpo", 32, 128, 100),
    method_shape("npg", 32, 128, 100),
    method_shape("vtrace", 32, 128, 200),
    method_shape("doubly_robust", 64, 128, 50),
    gru_shape(16, 32, 100),
    gru_shape(64, 128, 10),
    ppo_shape(64, 128, 1, 20, "Breakout-MinAtar"),
    ppo_shape(64, 128, 1, 20, "Breakout-MinAtar")._replace(name="ppo-breakout-64x128-shared", shared=True),
    ppo_shape(1024, 128, 1, 2, "Breakout-MinAtar"),
)
QUICK = (ppo_shape(4, 128, 2, 2), reinforce_shape(8, 128, 1, 2))


def built(shape: Shape) -> tuple[Environment, Agent, Trainer]:
    """Environment, agent (with a convolution for images) and trainer."""
    environment = environments.make(shape.environment)
    environment = environment._replace(horizon=shape.horizon or environment.horizon)
    config = shape.recipe.config
    agent = make_agent(environment, critic=config.critic, memory=shape.memory, hidden=shape.hidden, shared=shape.shared)
    return environment, agent, make_trainer(environment, agent, config)


def flops_per_step(environment: Environment, agent: Agent, shape: Shape) -> float:
    """Operations that a step needs at least: acting, evaluating, and a forward and backward pass per epoch."""
    params = agent.init(jax.random.key(0))
    rows = 128
    batch = jax.tree.map(lambda s: jnp.zeros((rows, *s.shape), s.dtype), environment.observation)

    def flops(function: Callable) -> float:
        analysis: Any = jax.jit(function).lower(params, batch).compile().cost_analysis()
        return analysis["flops"] / rows

    def seen(params: Any, observation: Any) -> Any:
        if agent.memory is None:
            return agent.seen(params, observation)
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), agent.memory.initial)
        return agent.memory.step(params, start, observation)[1]

    def judged(params: Any, observation: Any) -> Any:
        features = seen(params, observation)
        judge = agent.action_value or agent.value
        return agent.policy(params, features).logits, judge(params, features) if judge else 0.0

    return flops(judged) * (1 + 3 * shape.recipe.config.epochs)
