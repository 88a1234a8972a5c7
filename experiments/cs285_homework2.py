"""Do reward-to-go, standardisation and larger batches help? The grid of Berkeley CS285's homework 2 on CartPole-v1.

Batches of 1000 and 4000 steps × {total return, reward-to-go} × {as is, standardised}, 5 seeds, 100 updates. Each batch
size is one compiled call, a sweep over four methods and all seeds. As in the course, a batch is whole episodes whose
steps add up to its size, and the gradient is the mean over those steps.

Expect the total return to be slowest, standardisation to help most, and the larger batch to have less variance. Expect
reward-to-go to become unstable once every episode lasts 500 steps. Standardised over all steps, it then gives early
actions positive and late actions negative credit. A baseline per time step avoids this (see baselines.py). About four
minutes on two CPU cores.
"""

from dataclasses import replace

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike
from parts import seeds_below
from parts.command import as_script
from parts.results import Options

from pgjax import (
    Signals,
    environments,
    make_agent,
    make_trainer,
    product,
    reinforce,
    reward_to_go,
    score,
    standardised,
    sweep,
    total_return,
)
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures

BATCHES = {1000: 64, 4000: 192}  # steps per batch -> simulated episodes, enough even while they are short
QUICK_BATCHES = {100: 8, 200: 16}
OVER = {"causal": [0.0, 1.0], "strength": [0.0, 1.0]}


def credit(signals: Signals, causal: ArrayLike) -> Array:
    """Total return or reward-to-go, selected by a number, so that both are in one sweep."""
    return jnp.where(jnp.asarray(causal) > 0, reward_to_go(signals), total_return(signals))


def main(options: Options) -> None:
    """Run both batch sizes and draw one panel for each."""
    start()
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment)
    seeds, updates = (2, 5) if options.quick else (5, 100)
    recipe = reinforce(learning_rate=5e-3)
    estimator = product(standardised(Partial(credit, causal=1.0)), score)
    figure, panels = seeds_below.columns(2, one_scale=True)
    rows = []
    batches = QUICK_BATCHES if options.quick else BATCHES
    for column, (steps, episodes) in zip(panels.T, batches.items(), strict=True):
        labels = []
        trainer = make_trainer(
            environment, agent, replace(recipe.config, num_envs=episodes, batch_steps=steps, mean="steps")
        )
        algorithm = recipe.algorithm._replace(estimator=estimator)
        result = sweep(trainer, algorithm, seeds=seeds, over=OVER, total_steps=updates * steps)
        for i, (causal, standard) in enumerate((c, s) for c in OVER["causal"] for s in OVER["strength"]):
            label = ("reward-to-go" if causal else "total return") + (", standardised" if standard else "")
            chosen = (result.runs.settings["causal"] == causal) & (result.runs.settings["strength"] == standard)
            curve = figures.curve({name: values[chosen] for name, values in result.metrics.items()})
            last = curve[1][:, -20:].mean(axis=1)  # the last tenth of training
            seeds_below.draw(column, i, label, *curve, last)
            labels.append(label.replace(", ", ",\n"))
            rows.append((steps, label, seeds, last.mean(), last.min(), last.max()))
            print(f"batch {steps}, {label}: {last.mean():.1f} (seeds {last.min():.1f} to {last.max():.1f})", flush=True)
        first = steps == next(iter(batches))
        seeds_below.finish(
            column, f"batches of {steps} steps", labels, first=first, score="return, last tenth of training"
        )
    figure.suptitle(f"CartPole-v1, {updates} updates: mean of {seeds} seeds; below, each seed and the mean")
    columns = ("batch_steps", "method", "seeds", "last_tenth_mean", "lowest_seed", "highest_seed")
    options.write("cs285_homework2", figure, columns, rows)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
