"""Does marginal importance sampling beat per-decision weights on long horizons, and are its intervals correct?

On a ring of five states, data of a random behaviour policy are used to evaluate a policy that prefers one direction.
Left: the variance of one trajectory's estimate against the horizon T, exact by dynamic programming. For fitted ratios
it is N times the variance as N → ∞. Right: coverage of the 95 % intervals of 100 simulated trajectories, over 400
repetitions. The ratios of state distributions are exact, counted on the same trajectories, or from a dual whose
interval includes their error. Others are a critic (double reinforcement learning; the critic is 30 % too low) and
emphatic weights.

Expect the variance to grow exponentially per decision, and at most like T² with marginal weights. Per-decision
intervals fail on long horizons, where 100 trajectories do not contain the large weights. Marginal intervals have the
nominal coverage if the ratios are given. Ratios counted on the same trajectories leave the error small, but their
intervals ignore the error of the ratios: coverage is too low, less so with a critic. The dual uses tables of states and
actions and no behaviour policy; its error is as small as with a critic, and its interval nearly has the nominal
coverage. Emphatic weights are products, and lose part of the gain. Three minutes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from parts.command import as_script
from parts.results import Options

from pgjax import make_signals, oracle
from pgjax.estimators import dual_ratios, emphatic_weights, marginal_weights
from pgjax.estimators.value_estimates import doubly_robust, per_decision, weighted_per_decision

PLACES, LEVEL, TRAJECTORIES = 5, 0.95, 100
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200)
STYLES = {
    "per decision": "C1s-",
    "weighted per decision": "C3v-",
    "doubly robust": "C4D-",
    "marginal, exact ratios": "C0o-",
    "marginal, counted ratios": "C2^-",
    "marginal, dual ratios": "C9P-",
    "double, counted ratios": "C5x-",
    "emphatic": "C7*-",
}


class Row(NamedTuple):
    """One estimator at one horizon."""

    horizon: int
    estimator: str
    variance: float  # of one trajectory, exact (fitted ratios: N times the limit); NaN if only simulated
    rmse: float  # of 100 trajectories, divided by J
    coverage: float


def main(options: Options) -> None:
    """Compute variances by dynamic programming, and simulate."""
    horizons, repetitions = (HORIZONS[:3], 20) if options.quick else (HORIZONS, 400)
    with jax.enable_x64(True):
        rows = [row for horizon in horizons for row in judge(horizon, repetitions)]
    options.write("long_horizons", draw(rows), Row._fields, rows)


def problem(horizon: int) -> tuple[oracle.MDP, np.ndarray, np.ndarray]:
    """The ring, log π and log μ, [5, 2]."""
    place = np.arange(PLACES)
    step = np.stack([np.eye(PLACES)[(place + d) % PLACES] for d in (1, -1)], axis=1)
    transition = 0.8 * step + 0.2 / PLACES
    reward = np.where(place == 0, 1.0, 0.0)[:, None] * np.ones(2)
    target = np.where(place < 3, 0.85, 0.3)
    mdp = oracle.make_mdp(np.full(PLACES, 1.0 / PLACES), transition, reward, horizon)
    return mdp, np.log(np.stack([target, 1.0 - target], axis=1)), np.full((PLACES, 2), np.log(0.5))


def judge(horizon: int, repetitions: int) -> list[Row]:
    """Every estimator: exact variance where dynamic programming gives it, and simulation."""
    mdp, target, behaviour = problem(horizon)
    exact = float(oracle.exact_values(mdp, target).objective)
    known = {
        "per decision": float(oracle.per_decision_variance(mdp, target, behaviour)),
        "marginal, exact ratios": float(oracle.marginal_variance(mdp, target, behaviour)),
        "marginal, dual ratios": float(oracle.dual_variance(mdp, target, behaviour, of_actions=True)),
    }
    found = simulated(mdp, target, behaviour, jax.random.split(jax.random.key(horizon), repetitions))
    rows = []
    for name in STYLES:
        estimate = jax.device_get(found[name])
        inside = np.mean((estimate.low <= exact) & (exact <= estimate.high))
        rmse = np.sqrt(np.mean((estimate.mean - exact) ** 2)) / exact
        rows.append(Row(horizon, name, known.get(name, np.nan), float(rmse), float(inside)))
        print(f"T = {horizon:<4} {name:<25}variance {rows[-1].variance:<9.2g}rmse/J {rmse:<7.3f}holds {inside:.3f}")
    return rows


@jax.jit
@partial(jax.vmap, in_axes=(None, None, None, 0))
def simulated(mdp: oracle.MDP, target: Array, behaviour: Array, key: Array) -> dict[str, Any]:
    """All estimates from one batch of trajectories."""
    first, rest = jax.random.split(key)
    state = jax.random.choice(first, PLACES, (TRAJECTORIES,), p=jnp.asarray(mdp.initial))

    def step(state: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
        act, move = jax.random.split(key)
        action = jax.random.categorical(act, jnp.asarray(behaviour)[state])
        following = jax.random.categorical(move, jnp.log(jnp.asarray(mdp.transition)[state, action]))
        return following, (state, action)

    _, (state, action) = jax.lax.scan(step, state, jax.random.split(rest, mdp.horizon))
    critic = 0.7 * oracle.exact_values(mdp, target).action_value[jnp.arange(mdp.horizon)[:, None], state]
    signals = make_signals(
        jnp.asarray(mdp.reward)[state, action],
        value=jnp.sum(jnp.exp(jnp.asarray(target)[state]) * critic, axis=-1),
        log_ratio=(jnp.asarray(target) - jnp.asarray(behaviour))[state, action],
        action_value=critic,
        action=action,
    )
    exact = oracle.state_ratios(mdp, target, behaviour)[jnp.arange(mdp.horizon)[:, None], state]
    counted = marginal_weights.counted_state_ratios(signals, state, PLACES)
    places = jax.nn.one_hot(state, PLACES, dtype=float)
    taken, mean = (
        (places[..., None] * chosen[..., None, :]).reshape(*state.shape, 2 * PLACES)
        for chosen in (jax.nn.one_hot(action, 2, dtype=float), jnp.exp(jnp.asarray(target))[state])
    )
    return {
        "per decision": per_decision(signals, LEVEL),
        "weighted per decision": weighted_per_decision(signals, LEVEL),
        "doubly robust": doubly_robust(signals, LEVEL),
        "marginal, exact ratios": marginal_weights.marginal(signals, exact, LEVEL),
        "marginal, counted ratios": marginal_weights.marginal(signals, counted, LEVEL),
        "marginal, dual ratios": dual_ratios.dual(signals, taken, mean, level=LEVEL),
        "double, counted ratios": marginal_weights.double(signals, counted, LEVEL),
        "emphatic": emphatic_weights.emphatic(signals, taken, mean, level=LEVEL),
    }


def draw(rows: list[Row]) -> Figure:
    """Variance, error and coverage against the horizon."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.8), layout="constrained")
    for name, style in STYLES.items():
        own = [r for r in rows if r.estimator == name]
        horizon = [r.horizon for r in own]
        if np.isfinite(own[0].variance):
            left.plot(horizon, [r.variance for r in own], style, markersize=5)
        middle.plot(horizon, [r.rmse for r in own], style, markersize=5)
        right.plot(horizon, [100 * r.coverage for r in own], style, label=name, markersize=5)
    left.set(title="one trajectory, exactly", ylabel="variance of the estimate", yscale="log")
    middle.set(title=f"{TRAJECTORIES} trajectories", ylabel="root-mean-square error / J", yscale="log")
    right.set(title="95 % intervals that hold J", ylabel="%", ylim=(0, 102))
    right.axhline(95, color="black", linestyle="--", linewidth=1)
    for axes in (left, middle, right):
        axes.set(xscale="log", xlabel="horizon T")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    as_script(main, Options, __doc__)
