"""Where do biased gradients lead? Four fields on a problem with two parameters, beside ∇J.

A corridor of two places, one parameter in each: the logit of going on. Going on from the first costs a little, going on
from the second pays once; staying earns less but at once. Every field is an exact mean:

    exact         ∇J
    no γ^t        the sum of scores × discounted reward-to-go without γ^t in front, as nearly every library has it
    GRPO          standardised returns of a group of two
    first order   the mean of ρ_t ∇log π Q̂_t on data of a policy at the star, which does not move
    prefix        the mean of ρ_{1:t} ∇log π Q̂_t on the same data

Printed: where each leads from the star, what J is there, and the size of ∇J there. Expect the exact field to climb to
a stationary point of J, and the others to end where ∇J is not zero, or to leave by another way. Half a minute.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import oracle, product, score
from pgjax.estimators.groups import group_standardised

# Shared place, two parameters: π(a|s) of three actions from logits (x, y, 0); episodes of two steps, γ = 0.5.
MDP = oracle.make_mdp(
    np.array([1.0, 0.0]),
    np.array([[[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]]),
    np.array([[0.0, 0.55, 0.2], [1.0, -0.6, 0.3]]),
    horizon=3,
    discount=0.5,
)
STAR = np.array([-0.5, 0.8])
BOUND = 6.0  # parameters are shown, and followed, up to here
DECAY = 0.02  # of ‖θ‖²/2 in every field's objective, so that maxima are inside
STEP, STEPS = 0.5, 4000


def log_policy(theta: Array) -> Array:
    """The same three probabilities in both places, [2, 3]."""
    logits = jnp.concatenate([theta, jnp.zeros(1, theta.dtype)])
    return jnp.broadcast_to(jax.nn.log_softmax(logits), MDP.reward.shape)


def objective(theta: Array) -> Array:
    """J − DECAY ‖θ‖²/2."""
    return oracle.exact_values(MDP, log_policy(theta)).objective - 0.5 * DECAY * jnp.sum(theta**2)


def exact(theta: Array) -> Array:
    """Its gradient."""
    return jax.grad(objective)(theta)


def without_factor(theta: Array) -> Array:
    """Σ_t E[score_t Q_t], without γ^t."""
    values = oracle.exact_values(MDP, log_policy(theta))
    law, q = jax.lax.stop_gradient((values.state_law, values.action_value))
    return jax.grad(lambda x: jnp.einsum("ts,sa,tsa->", law, jnp.exp(log_policy(x)), q))(theta) - DECAY * theta


def grpo(theta: Array) -> Array:
    """Groups of two, over every pair of trajectories."""
    sampling = oracle.Sampling(batch_size=2)
    return oracle.moments(MDP, product(group_standardised, score), log_policy, theta, sampling).mean - DECAY * theta


def dropped(which: str, theta: Array) -> Array:
    """The mean of a form that drops ratios, on data of the policy at the star."""
    means = oracle.mean_gradients(MDP, log_policy, theta, log_policy(jnp.asarray(STAR)))
    return getattr(means, which) - DECAY * theta


FIELDS: dict[str, Callable[[Array], Array]] = {
    "exact ∇J": exact,
    "no γ^t": without_factor,
    "GRPO": grpo,
    "first order, fixed data": partial(dropped, "first_order"),
    "prefix, fixed data": partial(dropped, "prefix"),
}


def main(options: Options) -> None:
    """Follow, print, draw."""
    names = ("exact ∇J", "no γ^t") if options.quick else tuple(FIELDS)
    with jax.enable_x64(True):
        paths = {name: follow(name, 50 if options.quick else STEPS) for name in names}
        rows = []
        for name, path in paths.items():
            end = jnp.asarray(path[-1])
            own, true = (float(jnp.linalg.norm(f(end))) for f in (FIELDS[name], exact))
            rows.append((name, *path[-1].tolist(), float(objective(end)), own, true))
            print(
                f"{name:<26} ends at {path[-1].round(3)}, objective {rows[-1][3]:.4f}, |field| {own:.1e}, |∇| {true:.3f}"
            )
        figure = draw(paths, 5 if options.quick else 15)
    options.write("fields", figure, ("field", "x", "y", "objective", "field_size", "gradient_size"), rows)


def follow(name: str, steps: int) -> np.ndarray:
    """The path from the star, [steps + 1, 2]."""
    field, start = FIELDS[name], jnp.asarray(STAR)

    @jax.jit
    def run(start: Array) -> Array:
        def step(theta: Array, _: None) -> tuple[Array, Array]:
            new = theta + STEP * field(theta)
            return new, new

        return jax.lax.scan(step, start, None, length=steps)[1]

    return np.concatenate([STAR[None], np.asarray(run(start))])


def draw(paths: dict[str, np.ndarray], side: int) -> Figure:
    """Contours of the objective; a field's directions and its path."""
    line = np.linspace(-BOUND, BOUND, 60)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    height = np.asarray(jax.vmap(objective)(jnp.asarray(grid))).reshape(60, 60)
    best = paths["exact ∇J"][-1]
    coarse = np.linspace(-BOUND, BOUND, side)
    points = np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2)
    figure, panels = plt.subplots(1, len(paths), figsize=(3.2 * len(paths), 3.6), layout="constrained", sharey=True)
    for axes, (name, path) in zip(panels, paths.items(), strict=True):
        arrows = np.asarray(jax.lax.map(FIELDS[name], jnp.asarray(points)))
        arrows = arrows / np.maximum(np.linalg.norm(arrows, axis=1, keepdims=True), 1e-12)
        axes.contour(line, line, height, levels=18, cmap="Greys", linewidths=0.8, alpha=0.7)
        axes.quiver(*points.T, *arrows.T, color="C0", alpha=0.5, width=0.006, scale=22)
        axes.plot(*path.T, color="C3", linewidth=2)
        axes.plot(*path[0], "*", color="black", markersize=11)
        axes.plot(*path[-1], "o", color="C3", markersize=8, markeredgecolor="white")
        axes.plot(*best, "x", color="black", markersize=8, markeredgewidth=2)
        axes.set(title=name, xlabel="θ₁", xlim=(-BOUND, BOUND), ylim=(-BOUND, BOUND), aspect="equal")
    panels[0].set_ylabel("θ₂")
    figure.suptitle("★ start, × where ∇J leads, ● where the field leads; contours of the objective")
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
