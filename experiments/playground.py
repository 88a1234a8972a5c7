"""What do two cores reach in ten minutes on MuJoCo Playground? pgjax's PPO beside Playground's own.

The tasks are CartpoleBalance and WalkerWalk of its control suite, about fifty minutes in all. Trainings run one after
the other, each for the same wall time including compilation:

- pgjax's PPO with its tuned settings and a step size that decays to a hundredth over the time;
- Playground's PPO (brax's) with its settings for the task, which are made for a GPU: 2048 environments and 983,040
  steps per update; the last update ends after the time;
- with --sizes, the same PPO with pgjax's numbers of environments, steps, epochs and minibatches.

Policies are stored at every tenth of the time and evaluated afterwards, greedily and on the same episodes. brax calls
`jax.device_put_replicated`, which JAX has removed; the script provides a replacement.

Expect pgjax's return on CartpoleBalance to reach 1000 within three minutes and to stay there. With a constant step size
it does not stay. Once the pole hardly moves, gradients are tiny but Adam's steps are not, and one update can change the
policy by a KL above 1.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options
from parts.tables import wrapped

from pgjax import SettingError, evaluate, hyperparameters, sweeps
from pgjax.environments.packages import load
from pgjax.environments.playground import EXTRA, PREFIX
from pgjax.runs.settings.build import Setup, build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.start import start
from pgjax.runs.settings.tuned import tuned
from pgjax.runs.show import figures
from pgjax.types import Agent, Params

COLUMNS = ("task", "ppo", "environments", "steps_per_update", "seconds", "env_steps", "greedy_return")
POINTS = 10  # number of evaluated policies
EVALUATION_KEY = (1 << 31) + 1


@dataclass(frozen=True)
class Race(Options):
    """Options: what to train, and for how long."""

    tasks: tuple[str, ...] = ("CartpoleBalance", "WalkerWalk")
    """Tasks of Playground's control suite that have tuned settings."""
    sizes: bool = False
    """Also train Playground's PPO with pgjax's sizes."""
    minutes: float = 10.0
    """Wall time of each training, compilation included."""
    episodes: int = 32
    """Episodes per evaluation."""
    seed: int = 0
    """Seed of each training."""


class Point(NamedTuple):
    """A policy stored during training."""

    seconds: float
    env_steps: int
    params: Params


class Trained(NamedTuple):
    """Stored policies of a training, and the agent that acts with them."""

    label: str
    num_envs: int
    steps_per_update: int
    agent: Agent
    points: list[Point]


class TimeIsUp(Exception):
    """Ends brax's PPO, which has no time limit."""


class Clock:
    """Stores a policy at every tenth of the time, and the last one."""

    def __init__(self, seconds: float):
        """Start the clock."""
        self.begin, self.seconds, self.points = time.monotonic(), seconds, []

    def left(self) -> float:
        """Share of the time that is left, from 1 to 0.01."""
        return max(0.01, 1.0 - (time.monotonic() - self.begin) / self.seconds)

    def is_over(self, env_steps: int, params: Callable[[], Params]) -> bool:
        """Whether the time is over; called after every update."""
        now = time.monotonic() - self.begin
        if now >= self.seconds * (len(self.points) + 1) / POINTS:
            self.points.append(Point(now, env_steps, params()))
        return now >= self.seconds


def main(race: Race) -> None:
    """Train, evaluate and draw."""
    start()
    load("mujoco_playground", PREFIX, EXTRA)
    minutes, episodes = (0.02, 1) if race.quick else (race.minutes, race.episodes)
    rows = []
    for task in race.tasks[:1] if race.quick else race.tasks:
        if not (settings := tuned(PREFIX + task)):
            raise SettingError("tasks", task, "has no tuned settings")
        settings |= {"decay_updates": 0}  # the decay follows the clock instead
        settings |= {"num_envs": 2, "num_steps": 2, "minibatches": 1, "epochs": 1} if race.quick else {}
        setup = build(Settings(**settings))
        theirs = (in_our_sizes,) if race.quick else (as_configured, in_our_sizes) if race.sizes else (as_configured,)
        for train in (own, *theirs):
            trained = train(setup, task, Clock(60 * minutes), race.seed)
            for point in trained.points:
                key = jax.random.key(EVALUATION_KEY)
                returns = evaluate(setup.environment, trained.agent, point.params, key, episodes=episodes, greedy=True)
                of = (task, trained.label, trained.num_envs, trained.steps_per_update)
                rows.append((*of, round(point.seconds, 1), point.env_steps, float(np.mean(returns))))
                say(rows[-1])
    race.write("playground", draw(rows), COLUMNS, rows)


def own(setup: Setup, task: str, clock: Clock, seed: int) -> Trained:
    """pgjax's PPO."""
    config = setup.trainer.config
    first_rate = float(np.asarray(hyperparameters(setup.algorithm)["learning_rate"]))
    runs = sweeps.start(setup.trainer, setup.algorithm, seeds=[seed], over={"learning_rate": [first_rate]})
    over = False
    while not over:
        runs = runs.with_hyperparameters(learning_rate=first_rate * clock.left())
        runs, _ = sweeps.advance(setup.trainer, runs, total_steps=2**31 - 2**24, updates=1, donate=True)
        over = clock.is_over(int(runs.state.env_steps[0]), partial(first_of, runs.state.params))
    per_update = config.num_envs * config.num_steps
    return Trained("pgjax", config.num_envs, per_update, setup.agent, clock.points)


def first_of(params: Params) -> Params:
    """Parameters of the first run, copied because the next update reuses their memory."""
    return jax.tree.map(lambda x: np.array(x[0]), params)


def as_configured(setup: Setup, task: str, clock: Clock, seed: int) -> Trained:
    """Playground's PPO with Playground's settings."""
    return brax_ppo("Playground, its settings", settings_of(task), setup, task, clock, seed)


def in_our_sizes(setup: Setup, task: str, clock: Clock, seed: int) -> Trained:
    """Playground's PPO with pgjax's numbers of environments, steps, epochs and minibatches."""
    config = setup.trainer.config
    sizes = {
        "num_envs": config.num_envs,
        "unroll_length": config.num_steps,
        "num_minibatches": config.minibatches,
        "batch_size": config.num_envs // config.minibatches,
        "num_updates_per_batch": config.epochs,
    }
    return brax_ppo("Playground, pgjax's sizes", settings_of(task) | sizes, setup, task, clock, seed)


def settings_of(task: str) -> dict[str, Any]:
    """Playground's PPO settings for a task."""
    params = load("mujoco_playground.config.dm_control_suite_params", PREFIX + task, EXTRA)
    return dict(params.brax_ppo_config(task, impl="jax"))


def brax_ppo(label: str, settings: dict[str, Any], setup: Setup, task: str, clock: Clock, seed: int) -> Trained:
    """brax's PPO on Playground's wrappers; its own evaluations are off, because they would count as training time."""
    from brax.training.agents.ppo import train as ppo  # pyright: ignore[reportMissingImports]

    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = replicated  # type: ignore[attr-defined]
    playground = load("mujoco_playground", PREFIX + task, EXTRA)
    per_update = settings["batch_size"] * settings["num_minibatches"] * settings["unroll_length"]
    updates = (2**31 - 2**24) // per_update
    made: list[Any] = []

    def after_update(env_steps: int, make_policy: Any, params: Any) -> None:
        made[:] = [make_policy]
        if clock.is_over(env_steps, lambda: jax.tree.map(np.asarray, params)):
            raise TimeIsUp

    with contextlib.suppress(TimeIsUp):
        ppo.train(
            environment=playground.registry.load(task, config_overrides={"impl": "jax"}),
            wrap_env_fn=playground.wrapper.wrap_for_brax_training,
            policy_params_fn=after_update,
            run_evals=False,
            max_devices_per_host=1,  # with two CPU devices, jaxlib 0.11.2 crashes
            seed=seed,
            **settings | {"num_timesteps": updates * per_update, "num_evals": updates + 1, "num_resets_per_eval": 0},
        )
    return Trained(label, settings["num_envs"], per_update, agent_of(made[0]), clock.points)


def replicated(tree: Any, devices: list) -> Any:
    """Replacement of jax.device_put_replicated: a copy per device along a new leading axis."""
    spread = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec("devices"))
    return jax.tree.map(lambda x: jax.device_put(jnp.stack([x] * len(devices)), spread), tree)


class Decided(NamedTuple):
    """A distribution with one action, for evaluation."""

    action: Any

    def mode(self) -> Any:
        """The action."""
        return self.action

    def log_prob(self, action: Any) -> Any:
        """Zero; a rollout calls it, but an evaluation does not use it."""
        return jnp.zeros(())

    def to_environment(self, action: Any) -> Any:
        """The action unchanged, because brax's policy has applied its tanh."""
        return action


def agent_of(make_policy: Any) -> Agent:
    """The greedy policy of brax's networks as an agent."""

    def policy(params: Params, observation: Any) -> Decided:
        return Decided(make_policy(params, deterministic=True)(observation, jax.random.key(0))[0])

    return Agent(init=lambda key: None, policy=policy)


def say(row: tuple) -> None:
    """Print one evaluated policy."""
    task, label, _, _, seconds, env_steps, value = row
    rate = env_steps / seconds
    took = f"{env_steps:,} steps in {seconds:.0f} s ({rate:,.0f}/s)"
    print(wrapped(f"{task}, {label}: {took}, greedy {value:.0f}"), flush=True)


def draw(rows: list[tuple]) -> Figure:
    """Greedy return against wall time, one panel per task."""
    tasks = list(dict.fromkeys(row[0] for row in rows))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(4.6 * len(tasks), 4.0), squeeze=False, sharey=True, layout="constrained"
    )
    for axes, task in zip(panels[0], tasks, strict=True):
        for label in dict.fromkeys(row[1] for row in rows):
            points = [(row[4] / 60, row[6]) for row in rows if row[:2] == (task, label)]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
        figures.finish(axes, task, ylabel="")
        axes.set(xlabel="minutes, compilation included", ylim=(0, 1000), xlim=(0, None))
    panels[0, 0].set_ylabel("greedy return")
    panels[0, 0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    as_script(main, Race, __doc__)
