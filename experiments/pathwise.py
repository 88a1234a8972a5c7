"""What is the benefit of a differentiable environment? Pathwise and score-function gradients on Pendulum.

gymnax's Pendulum has differentiable transitions, so that ∇J is also the mean of ∇R through actions and dynamics. Expect
both estimators to have the same mean within its error. For a few steps the pathwise variance is a thousandth of that
of the score function with a baseline. They are equal at about fifty steps. Beyond, the pathwise variance explodes,
because the pendulum amplifies small changes.
"""

from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import pyplot as plt
from parts.command import as_script
from parts.results import Options

from pgjax import (
    Agent,
    Environment,
    baselined,
    baselines,
    environments,
    make_agent,
    make_signals,
    product,
    reward_to_go,
    rollout,
    score,
)
from pgjax.training.gradients import trajectory_gradients
from pgjax.training.loss import Batch
from pgjax.types import Params

HORIZONS = (5, 10, 25, 50, 100, 200)
SHOWN = 25  # the horizon of the left panel
CREDITS = {
    "score, reward-to-go": reward_to_go,
    "score, time-step baseline": baselined(reward_to_go, baselines.time_step),
}
COLUMNS = ("horizon", "estimator", "trajectories", "gradient_norm", "variance", "mean_deviation_in_errors")


def main(options: Options) -> None:
    """Both gradients of every trajectory, for growing horizons."""
    horizons, count = (HORIZONS[:2], 256) if options.quick else (HORIZONS, 4096)
    env, params_of_env = gymnax.make("Pendulum-v1")
    differentiable = environments.from_gymnax(env.with_transition_gradients(), params_of_env, name="Pendulum-v1")
    agent = make_agent(differentiable, hidden=(16,), initial_log_std=-1.0)
    params = agent.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), count)
    variances, rows, means = {}, [], {}
    for horizon in horizons:
        environment = differentiable._replace(horizon=horizon)
        found = {name: scored(environment, agent, params, keys, credit) for name, credit in CREDITS.items()}
        found["pathwise"] = pathwise(environment, agent, params, keys)
        exact, exact_error = moments(found["pathwise"])
        for name, each in found.items():
            mean, error = moments(each)
            deviation = np.sqrt(np.mean(((mean - exact) / np.hypot(error, exact_error)) ** 2))
            variance = float(each.var(axis=0).sum())
            variances.setdefault(name, []).append(variance)
            rows.append((horizon, name, count, np.linalg.norm(mean), variance, deviation))
            if horizon <= SHOWN:
                means[name] = mean, error
            print(f"horizon {horizon}, {name}: variance {variance:.3g}, deviation {deviation:.2f}", flush=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for name, colour in zip(CREDITS, ("C0", "C1"), strict=True):
        (x, _), (y, error) = means["pathwise"], means[name]
        left.errorbar(x, y, 2 * error, fmt="o", markersize=3, linewidth=0.7, color=colour, label=name)
    span = [float(means["pathwise"][0].min()), float(means["pathwise"][0].max())]
    left.plot(span, span, color="black", linewidth=0.8, label="equal")
    left.set(xlabel="pathwise mean, per parameter", ylabel="score-function mean ± 2 standard errors")
    left.set_title(f"∂J/∂θ at horizon {min(SHOWN, horizons[-1])}")
    left.legend(frameon=False, fontsize=8)
    for i, (name, values) in enumerate(variances.items()):
        right.loglog(horizons, values, "o-", markersize=4, color=f"C{i}", label=name)
    right.set(xlabel="horizon, steps", ylabel="trace of one trajectory's covariance", title="variance")
    right.set_xticks(horizons, [str(h) for h in horizons])
    right.minorticks_off()
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Pendulum-v1, {count} trajectories, Gaussian policy")
    options.write("pathwise", figure, COLUMNS, rows)


@partial(jax.jit, static_argnums=(0, 1))
def _pathwise(environment: Environment, agent: Agent, params: Params, keys: Array) -> Params:
    def total(policy: Params, key: Array) -> Array:
        actor = rollout.actor(agent, params | {"policy": policy})
        return jnp.sum(rollout.episodes(environment, actor, key[None]).reward)

    return jax.lax.map(lambda key: jax.grad(total)(params["policy"], key), keys, batch_size=256)


def pathwise(environment: Environment, agent: Agent, params: Params, keys: Array) -> np.ndarray:
    """∇R of every trajectory through actions (mean + σ·noise) and dynamics, [N, P]."""
    return flat(_pathwise(environment, agent, params, keys), len(keys))


@partial(jax.jit, static_argnums=(0, 1))
def _scored(environment: Environment, agent: Agent, params: Params, keys: Array, credit: object) -> Params:
    rows = jax.lax.stop_gradient(rollout.episodes(environment, rollout.actor(agent, params), keys))
    signals = make_signals(rows.reward, mask=rows.mask, terminated=rows.terminated, truncated=rows.truncated)
    estimator = product(credit, score)  # type: ignore[arg-type]
    return trajectory_gradients(agent, estimator, params, Batch(rows, signals, estimator.credit(signals)))


def scored(environment: Environment, agent: Agent, params: Params, keys: Array, credit: object) -> np.ndarray:
    """Σ_t ∇log π · Ψ_t of every trajectory, [N, P]; groups of 256 share a baseline."""
    groups = keys.reshape(-1, min(256, len(keys)))
    as_pytree = jax.tree_util.Partial(credit) if not isinstance(credit, jax.tree_util.Partial) else credit
    return np.concatenate([flat(_scored(environment, agent, params, k, as_pytree), k.size) for k in groups])


def flat(gradients: Params, count: int) -> np.ndarray:
    """[N, P] from a pytree of [N, ...]."""
    return np.concatenate([np.asarray(x).reshape(count, -1) for x in jax.tree.leaves(gradients)], axis=1)


def moments(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error per parameter."""
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(each)) + 1e-12


if __name__ == "__main__":
    as_script(main, Options, __doc__)
