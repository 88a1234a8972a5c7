"""Does randomised training make a policy robust? PPO on CartPole-v1 with other pole lengths, eight seeds.

Three trainings of equal length: at half length 0.5 (gymnax's own) and 1.6 (the middle of the range), as one sweep, and
with a length drawn uniformly from 0.2 to 3 in each episode. The greedy policies are evaluated at twelve lengths in one
compiled call. The observation does not contain the length. Only `length` changes; gymnax's `polemass_length` is a
separate parameter and stays constant. Two to three minutes on two CPU cores.

Expect the return of policies trained at 0.5 to fall from length 1 on, and of those trained at 1.6 from 2.5 on. Policies
trained with drawn lengths stay near 500 in the whole range, with a few returns below 500 at short lengths.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import Agent, Environment, environments, evaluate, make_agent, make_trainer, ppo, sweep, sweeps
from pgjax.methods.schedules import decaying
from pgjax.runs.settings.start import start
from pgjax.types import Params

LOW, HIGH, FIXED = 0.2, 3.0, (0.5, 1.6)
LENGTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0)
COLUMNS = ("trained_at", "length", "seeds", "total_steps", "greedy_mean", "greedy_worst_seed")


def main(options: Options) -> None:
    """Train, evaluate at all lengths and draw."""
    start()
    seeds, total_steps, episodes = (2, 2_000, 4) if options.quick else (8, 400_000, 64)
    config = ppo().config
    algorithm = decaying(ppo(), max(1, total_steps // (config.num_envs * config.num_steps))).algorithm
    plain = environments.make("CartPole-v1")
    drawn = environments.make("CartPole-v1", randomise={"length": (LOW, HIGH)})
    agent = make_agent(plain, critic=config.critic)
    over = {"environment.length": FIXED}
    fixed = sweep(make_trainer(plain, agent, config), algorithm, seeds=seeds, over=over, total_steps=total_steps).runs
    random = sweep(make_trainer(drawn, agent, config), algorithm, seeds=seeds, total_steps=total_steps).runs
    trained = {f"{length}": params_of(fixed, slice(i * seeds, (i + 1) * seeds)) for i, length in enumerate(FIXED)} | {
        f"{LOW} to {HIGH:g}, drawn": params_of(random, slice(None))
    }

    rows = []
    for label, params in trained.items():
        returns = robustness(plain, agent, params, episodes)
        for length, of in zip(LENGTHS, returns.T, strict=True):
            rows.append((label, length, seeds, total_steps, float(of.mean()), float(of.min())))
        inside = returns[:, (np.array(LENGTHS) >= LOW) & (np.array(LENGTHS) <= HIGH)]
        print(f"trained at {label}: greedy return {inside.mean():.0f}, mean over the range", flush=True)
    options.write("randomisation", draw(rows, seeds), COLUMNS, rows)


def draw(rows: list[tuple], seeds: int) -> Figure:
    """Return against length: mean and worst seed of each training."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    axes.axvspan(LOW, HIGH, color="C2", alpha=0.08, linewidth=0)
    for i, label in enumerate(dict.fromkeys(row[0] for row in rows)):
        mean, worst = zip(*(row[-2:] for row in rows if row[0] == label), strict=True)
        axes.plot(LENGTHS, mean, "o-", color=f"C{i}", markersize=4, label=label)
        axes.plot(LENGTHS, worst, ":", color=f"C{i}", linewidth=1.2)
    axes.set(xlabel="half length of the pole in evaluation", ylabel="greedy return", ylim=(0, 515))
    axes.set(xscale="log", title="PPO on CartPole-v1: one pole length in training, or one drawn per episode")
    axes.set_xticks(LENGTHS, [f"{length:g}" for length in LENGTHS])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"trained at (shaded: drawn)\nmean of {seeds} seeds, dotted: worst"
    axes.legend(title=title, frameon=False, fontsize=9, title_fontsize=8, loc=(0.19, 0.04), alignment="left")
    return figure


def params_of(runs: sweeps.Runs, which: slice) -> Params:
    """Trained parameters of some runs, as unsharded arrays."""
    return jax.tree.map(lambda x: np.asarray(x)[which], runs.state.params)


def robustness(environment: Environment, agent: Agent, params: Params, episodes: int) -> np.ndarray:
    """Greedy return of every policy at every length, [R, lengths], in one program."""

    def at(params: Params, length: jax.Array) -> jax.Array:
        key, values = jax.random.key(1 << 31), {"length": length}
        return evaluate(
            environment, agent, params, key, episodes=episodes, greedy=True, environment_parameters=values
        ).mean()

    return np.asarray(jax.vmap(jax.vmap(at, (None, 0)), (0, None))(params, jnp.array(LENGTHS)))


if __name__ == "__main__":
    as_script(main, Options, __doc__)
