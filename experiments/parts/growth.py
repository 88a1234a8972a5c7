"""How training time grows with updates, environments, seeds and parameters: seconds, and slopes on logarithmic axes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from parts.shapes import Shape, built, ppo_shape


class Growth(NamedTuple):
    """Seconds of a training against one of its sizes."""

    label: str
    seconds: Mapping[int, float]
    steps: Mapping[int, int]  # environment steps in so many seconds, all seeds together

    @property
    def slope(self) -> float:
        """Of log seconds against log size, least squares over the larger half of the sizes: 1 is proportional."""
        sizes = sorted(self.seconds)[-max(2, len(self.seconds) // 2) :]
        return float(np.polyfit(np.log(sizes), np.log([self.seconds[n] for n in sizes]), 1)[0])


def growth(measure: Callable[[Shape], tuple[float, int]], quick: bool) -> list[Growth]:
    """PPO on CartPole, 128 steps per batch, with one size varied at a time.

    Args:
      measure: a shape -> seconds of training it from scratch, compiled, and its environment steps.
      quick: only two numbers of updates.
    """
    updates, most_seeds = 8, 64 if jax.default_backend() == "cpu" else 2048

    def doubled(least: int, most: int) -> list[int]:
        return [least << i for i in range((most // least).bit_length())]

    def of(label: str, shapes: Mapping[int, Shape]) -> Growth:
        found = {size: measure(shape) for size, shape in shapes.items()}
        return Growth(label, {n: s for n, (s, _) in found.items()}, {n: steps for n, (_, steps) in found.items()})

    if quick:
        return [of("updates (4 environments)", {n: ppo_shape(4, 128, 1, n) for n in (2, 4)})]
    wide = {}
    for width in doubled(16, 1024):
        shape = ppo_shape(64, 128, 1, 2)._replace(hidden=(width, width))
        params = jax.eval_shape(built(shape)[1].init, jax.random.key(0))
        wide[sum(x.size for x in jax.tree.leaves(params))] = shape
    return [
        of("updates (4 environments)", {n: ppo_shape(4, 128, 1, n) for n in doubled(16, 2048)}),
        of("environments", {n: ppo_shape(n, 128, 1, updates) for n in doubled(4, 4096)}),
        of("seeds (4 environments each)", {n: ppo_shape(4, 128, n, updates) for n in doubled(1, most_seeds)}),
        of("parameters (64 environments)", wide),
    ]


def drawn(found: list[Growth], title: str) -> Figure:
    """A panel for each size: seconds measured, and the line of proportional growth through the largest."""
    figure, panels = plt.subplots(1, len(found), figsize=(3 * len(found), 3.4), squeeze=False, layout="constrained")
    for axes, one in zip(panels[0], found, strict=True):
        sizes, seconds = np.array(list(one.seconds)), np.array(list(one.seconds.values()))
        axes.plot(sizes, seconds[-1] * sizes / sizes[-1], "--", color="0.6", label="proportional")
        axes.plot(sizes, seconds, "o-", color="C0", label="measured")
        axes.set(xscale="log", yscale="log", xlabel=one.label, title=f"slope {one.slope:.2f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("seconds of training")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(title)
    return figure
