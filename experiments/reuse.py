"""How far can a batch be reused, with which ratios? Every form with 1, 4 and 16 passes over each batch, on CartPole-v1.

Expect all forms to agree with one pass, since all ratios are 1. With sixteen passes they differ, and the lower panels
show their effective sample sizes. A run whose policy has collapsed takes few steps per batch; it is stopped after
MAX_BATCHES, and its curve is continued as a constant.
"""

from dataclasses import replace

import jax
from matplotlib import pyplot as plt
from parts.command import as_script
from parts.results import Options

from pgjax import (
    ALGORITHMS,
    FORMS,
    environments,
    evaluate_runs,
    make_agent,
    make_trainer,
    sweep,
)
from pgjax.runs.settings.start import start
from pgjax.runs.show import figures

EPOCHS = (1, 4, 16)
EPISODES_PER_BATCH, LEARNING_RATE, MAX_BATCHES = 16, 2e-3, 160
METHODS = (*FORMS, "doubly_robust")
COLUMNS = ("form", "epochs", "seeds", "total_steps", "greedy_mean", "greedy_worst_seed")


def main(options: Options) -> None:
    """Train every form with every number of passes, one panel per number."""
    start()
    environment = environments.make("CartPole-v1")
    seeds, total_steps = (2, 2_000) if options.quick else (6, 150_000)
    forms = ("first_order",) if options.quick else METHODS
    figure, panels = plt.subplots(2, len(EPOCHS), figsize=(15, 7.5), sharey="row", layout="constrained")
    rows = []
    for column, epochs in enumerate(EPOCHS[:2] if options.quick else EPOCHS):
        for i, form in enumerate(forms):
            recipe = ALGORITHMS[form](learning_rate=LEARNING_RATE, epochs=epochs)
            agent = make_agent(environment, critic=recipe.config.critic)
            trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=EPISODES_PER_BATCH))
            result = sweep(trainer, recipe.algorithm, seeds=seeds, total_steps=total_steps, max_updates=MAX_BATCHES)
            greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
            rows.append((form, epochs, seeds, total_steps, greedy.mean(), greedy.min()))
            print(f"{epochs} passes, {form}: greedy return {greedy.mean():.1f}", flush=True)
            style = {"label": form, "spread": "quartiles", "colour": f"C{i}"}
            figures.draw_curve(panels[0, column], *figures.curve(result.metrics, until=total_steps), **style)
            if epochs > 1:
                sample = figures.curve(result.metrics, "effective_sample_size", until=total_steps)
                panels[1, column].plot(sample[0], sample[1].mean(axis=0), color=f"C{i}")
        figures.finish(panels[0, column], f"{epochs} passes over each batch" if epochs > 1 else "1 pass")
        figures.finish(panels[1, column], "", "effective sample size / batch")
    panels[1, 0].axis("off")
    panels[1, 1].tick_params(labelleft=True)
    panels[1, 0].legend(*panels[0, 0].get_legend_handles_labels(), frameon=False, loc="center", title="form")
    figure.suptitle(
        f"Reusing batches of {EPISODES_PER_BATCH} episodes on CartPole-v1: mean of {seeds} seeds, band: middle half"
    )
    options.write("reuse", figure, COLUMNS, rows)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
