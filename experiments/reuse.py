"""How far can a batch be reused, with which ratios? Every form with 1, 4 and 16 passes over each batch, on CartPole-v1.

Expect forms with the same baseline to agree with one pass, since all ratios are 1. With sixteen passes they differ, and
the second figure shows their effective sample sizes. A run whose policy has collapsed takes few steps per batch; it is
stopped after MAX_BATCHES, and its curve is continued as a constant.
"""

from dataclasses import replace

import jax
from matplotlib import pyplot as plt
from parts import seeds_below
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
    """Train every form with every number of passes: a column for each number, and a figure of sample sizes."""
    start()
    environment = environments.make("CartPole-v1")
    seeds, total_steps = (2, 2_000) if options.quick else (6, 150_000)
    forms = ("first_order",) if options.quick else METHODS
    passes = EPOCHS[:2] if options.quick else EPOCHS
    figure, panels = seeds_below.columns(len(passes), one_scale=True)
    sizes, size_panels = plt.subplots(
        1, len(passes) - 1, figsize=(4.5 * len(passes) - 3, 4), squeeze=False, sharey=True, layout="constrained"
    )
    rows, size_rows = [], []
    for k, epochs in enumerate(passes):
        for i, form in enumerate(forms):
            recipe = ALGORITHMS[form](learning_rate=LEARNING_RATE, epochs=epochs)
            agent = make_agent(environment, critic=recipe.config.critic)
            trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=EPISODES_PER_BATCH))
            result = sweep(trainer, recipe.algorithm, seeds=seeds, total_steps=total_steps, max_updates=MAX_BATCHES)
            greedy = evaluate_runs(environment, agent, result.runs, jax.random.key(1 << 31), greedy=True).mean(axis=1)
            rows.append((form, epochs, seeds, total_steps, greedy.mean(), greedy.min()))
            print(f"{epochs} passes, {form}: greedy return {greedy.mean():.1f}", flush=True)
            seeds_below.draw(panels[:, k], i, form, *figures.curve(result.metrics, until=total_steps), greedy)
            if epochs > 1:
                grid, share = figures.curve(result.metrics, "effective_sample_size", until=total_steps)
                size_panels[0, k - 1].plot(grid, share.mean(axis=0), color=f"C{i}", label=form)
                size_rows.append((form, epochs, share[:, share.shape[1] // 2 :].mean()))
        title = f"{epochs} passes over each batch" if epochs > 1 else "1 pass over each batch"
        seeds_below.finish(panels[:, k], title, forms, first=k == 0)
        if epochs > 1:
            figures.finish(size_panels[0, k - 1], title, "effective sample size / batch" if k == 1 else "")
    panels[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    size_panels[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"Batches of {EPISODES_PER_BATCH} episodes on CartPole-v1: mean of {seeds} seeds; below, each seed")
    sizes.suptitle(f"Effective sample size after the last pass, mean of {seeds} seeds")
    options.write("reuse", figure, COLUMNS, rows)
    options.write("reuse_sample_sizes", sizes, ("form", "epochs", "effective_share_second_half"), size_rows)


if __name__ == "__main__":
    as_script(main, Options, __doc__)
