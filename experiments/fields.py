"""Where do biased gradients lead? Five fields on a problem with two parameters, compared with ∇J.

Two states share one policy of three actions with logits (θ₁, θ₂, 0); three steps, γ = 0.5. The objective is J
− 0.01 ‖θ‖², so that its maximum is finite; every field has the same penalty. Every field is an exact mean:

- exact: ∇J
- no γ^t: the sum of scores × discounted reward-to-go without the factor γ^t, as in nearly every library
- GRPO: standardised returns of a group of two
- first order: the mean of ρ_t ∇log π Q̂_t on data of the fixed policy at the start
- prefix: the mean of ρ_{1:t} ∇log π Q̂_t on the same data

For each field the script prints the end point from the common start, and the objective and the norm of the true
gradient there. Expect the exact field to end where that gradient is zero. The others end at points where it is not,
with an objective that is lower by one or two percent. Half a minute.
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

MDP = oracle.make_mdp(
    np.array([1.0, 0.0]),
    np.array([[[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]]),
    np.array([[0.0, 0.55, 0.2], [1.0, -0.6, 0.3]]),
    horizon=3,
    discount=0.5,
)
STAR = np.array([-0.5, 0.8])
LOW, HIGH = np.array([-3.2, -0.4]), np.array([1.2, 4.4])  # plotted range
DECAY = 0.02  # weight of ‖θ‖²/2 in every field's objective
STEP, STEPS = 0.5, 4000


def log_policy(theta: Array) -> Array:
    """Log-probabilities, the same in both states, [2, 3]."""
    logits = jnp.concatenate([theta, jnp.zeros(1, theta.dtype)])
    return jnp.broadcast_to(jax.nn.log_softmax(logits), MDP.reward.shape)


def objective(theta: Array) -> Array:
    """J − DECAY ‖θ‖²/2."""
    return oracle.exact_values(MDP, log_policy(theta)).objective - 0.5 * DECAY * jnp.sum(theta**2)


def exact(theta: Array) -> Array:
    """Gradient of the objective."""
    return jax.grad(objective)(theta)


def without_factor(theta: Array) -> Array:
    """Σ_t E[score_t Q_t], without γ^t."""
    values = oracle.exact_values(MDP, log_policy(theta))
    visits, q = jax.lax.stop_gradient((values.state_law, values.action_value))
    return jax.grad(lambda x: jnp.einsum("ts,sa,tsa->", visits, jnp.exp(log_policy(x)), q))(theta) - DECAY * theta


def grpo(theta: Array) -> Array:
    """GRPO with groups of two, over every pair of trajectories."""
    sampling = oracle.Sampling(batch_size=2)
    return oracle.moments(MDP, product(group_standardised, score), log_policy, theta, sampling).mean - DECAY * theta


def dropped(which: str, theta: Array) -> Array:
    """Mean of a form that drops ratios, on data of the policy at the start."""
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
    """Follow the fields, print and draw."""
    names = ("exact ∇J", "no γ^t") if options.quick else tuple(FIELDS)
    with jax.enable_x64(True):
        paths = {name: follow(name, 50 if options.quick else STEPS) for name in names}
        rows = []
        for name, path in paths.items():
            end = jnp.asarray(path[-1])
            own, true = (float(jnp.linalg.norm(f(end))) for f in (FIELDS[name], exact))
            rows.append((name, *path[-1].tolist(), float(objective(end)), own, true))
            print(f"{name:<26} ends at {path[-1].round(3)}, objective {rows[-1][3]:.4f}")
            print(f"{'':<26} field {own:.1e}, ∇ {true:.3f}")
        figure = draw(paths, 5 if options.quick else 15)
    options.write("fields", figure, ("field", "x", "y", "objective", "field_size", "gradient_size"), rows)


def follow(name: str, steps: int) -> np.ndarray:
    """Path from the start, [steps + 1, 2]."""
    field, start = FIELDS[name], jnp.asarray(STAR)

    @jax.jit
    def run(start: Array) -> Array:
        def step(theta: Array, _: None) -> tuple[Array, Array]:
            new = theta + STEP * field(theta)
            return new, new

        return jax.lax.scan(step, start, None, length=steps)[1]

    return np.concatenate([STAR[None], np.asarray(run(start))])


def draw(paths: dict[str, np.ndarray], side: int) -> Figure:
    """Contours of the objective, with the directions and the path of each field."""
    across, up = (np.linspace(LOW[i], HIGH[i], 60) for i in (0, 1))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    height = np.asarray(jax.vmap(objective)(jnp.asarray(grid))).reshape(60, 60)
    best = paths["exact ∇J"][-1]
    coarse = np.meshgrid(*(np.linspace(LOW[i], HIGH[i], side) for i in (0, 1)))
    points = np.stack(coarse, axis=-1).reshape(-1, 2)
    figure, panels = plt.subplots(2, 3, figsize=(9.5, 7.4), layout="constrained", sharex=True, sharey=True)
    panels.flat[-1].set_visible(False)
    for axes, (name, path) in zip(panels.flat, paths.items(), strict=False):
        arrows = np.asarray(jax.lax.map(FIELDS[name], jnp.asarray(points)))
        arrows = arrows / np.maximum(np.linalg.norm(arrows, axis=1, keepdims=True), 1e-12)
        axes.contour(across, up, height, levels=24, cmap="Greys", linewidths=0.8, alpha=0.7)
        axes.quiver(*points.T, *arrows.T, color="C0", alpha=0.5, width=0.006, scale=22)
        axes.plot(*path.T, color="C3", linewidth=2)
        axes.plot(*path[0], "*", color="black", markersize=11)
        axes.plot(*path[-1], "o", color="C3", markersize=8, markeredgecolor="white")
        axes.plot(*best, "x", color="black", markersize=8, markeredgewidth=2)
        axes.set(title=name, xlabel="θ₁", ylabel="θ₂", xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]))
    figure.suptitle("★ start, × where ∇J leads, ● where the field leads; contours of the objective")
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
