"""How far can a batch be reused, and with which ratios? Every form with 1, 4 and 16 updates per batch on CartPole-v1.

Expect the forms of ratios to agree at one update (all ratios are 1) and to part at sixteen, where what is left of the
effective sample, drawn below, tells them apart.
"""

from dataclasses import replace

import jax
import tyro
from matplotlib import pyplot as plt

from pgjax import (
    FORMS,
    environments,
    evaluate_runs,
    importance_sampling,
    make_agent,
    make_trainer,
    sweep,
    use_cpu_devices,
)
from pgjax.lab import figures
from pgjax.lab.results import Options

UPDATES = (1, 4, 16)
EPISODES_PER_BATCH, LEARNING_RATE = 16, 2e-3
COLUMNS = ("form", "updates_per_batch", "seeds", "total_steps", "greedy_mean", "greedy_worst_seed")


def main(options: Options) -> None:
    """Train every form with every number of updates; one panel per number."""
    use_cpu_devices()
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment)
    seeds, total_steps = (2, 4_000) if options.quick else (6, 200_000)
    forms = ("trajectory_is", "first_order") if options.quick else tuple(FORMS)
    figure, panels = plt.subplots(2, len(UPDATES), figsize=(15, 7.5), sharey="row", layout="constrained")
    rows = []
    for column, updates in enumerate(UPDATES[:2] if options.quick else UPDATES):
        for i, form in enumerate(forms):
            recipe = importance_sampling(form, learning_rate=LEARNING_RATE, epochs=updates)
            trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=EPISODES_PER_BATCH))
            result = sweep(trainer, recipe.algorithm, seeds=seeds, total_steps=total_steps)
            greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
            rows.append((form, updates, seeds, total_steps, greedy.mean(), greedy.min()))
            print(f"{updates} updates, {form}: greedy return {greedy.mean():.1f}", flush=True)
            grid, returns = figures.curve(result.metrics)
            figures.draw_curve(panels[0, column], grid, returns, label=form, spread="quartiles", colour=f"C{i}")
            if updates > 1:
                sample = figures.curve(result.metrics, "effective_sample_size")
                figures.draw_curve(panels[1, column], *sample, label=form, spread="quartiles", colour=f"C{i}")
        figures.finish(panels[0, column], f"{updates} updates per batch")
        figures.finish(panels[1, column], "", "effective sample size / batch")
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[1, 0].axis("off")
    figure.suptitle(f"Reusing batches of {EPISODES_PER_BATCH} episodes on CartPole-v1: {seeds} seeds, middle half")
    options.write("reuse", figure, COLUMNS, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
