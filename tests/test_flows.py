"""Discounted problems, flows and the theorems about them: against other computations, and bounds along whole curves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pgjax import (
    Config,
    SettingError,
    environments,
    make_agent,
    make_trainer,
    oracle,
    product,
    reinforce,
    score,
    total_return,
)
from pgjax.oracle import flows

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(5)
PROBLEM = flows.garnet(3, states=4, actions=3, branches=2, discount=0.7)
ENDING = flows.gridworld(2)
LOGITS = {4: RNG.normal(size=(4, 3)), "grid": RNG.normal(size=(4, 4))}
CASES = ((PROBLEM, LOGITS[4]), (ENDING, LOGITS["grid"]))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "logits"), CASES, ids=["goes on", "ends"])
def test_linear_solves_are_the_limit_of_the_dynamic_programme(problem, logits):
    horizon = 400
    mdp, log_probs = flows.with_horizon(problem, horizon), jax.nn.log_softmax(logits)
    long, found = oracle.exact_values(mdp, log_probs), flows.discounted_values(problem, jnp.exp(log_probs))
    np.testing.assert_allclose(found.objective, long.objective, rtol=1e-12)
    np.testing.assert_allclose(found.value, long.value[0], rtol=1e-12)
    np.testing.assert_allclose(found.action_value, long.action_value[0], rtol=1e-12)
    law = (1 - mdp.discount) * mdp.discount ** np.arange(horizon) @ long.state_law
    np.testing.assert_allclose(found.occupancy, law, rtol=1e-12)
    np.testing.assert_allclose(np.sum(softmax(logits) * found.advantage, axis=1), 0, atol=1e-12)
    exact = oracle.exact_gradient(mdp, jax.nn.log_softmax, logits)
    np.testing.assert_allclose(flows.discounted_gradient(problem, jax.nn.log_softmax, logits), exact, atol=1e-12)


def test_the_gradient_theorem_is_the_derivative_of_the_linear_solve_and_of_its_differences():
    def objective(x):
        return flows.discounted_objective(PROBLEM, jax.nn.log_softmax, x)

    found = flows.discounted_gradient(PROBLEM, jax.nn.log_softmax, LOGITS[4])
    np.testing.assert_allclose(found, jax.grad(objective)(LOGITS[4]), atol=1e-13)
    for s, a in ((0, 0), (2, 1), (3, 2)):
        step = 1e-5 * np.eye(12)[3 * s + a].reshape(4, 3)
        difference = (objective(LOGITS[4] + step) - objective(LOGITS[4] - step)) / 2e-5
        np.testing.assert_allclose(found[s, a], difference, rtol=1e-7)


def test_fisher_information_against_loops():
    probs = softmax(LOGITS[4])
    law = np.asarray(flows.discounted_values(PROBLEM, probs).occupancy)
    expected = np.zeros((12, 12))
    for s, a in np.ndindex(4, 3):
        score = np.zeros((4, 3))
        score[s] = np.eye(3)[a] - probs[s]
        expected += law[s] * probs[s, a] * np.outer(score, score)
    np.testing.assert_allclose(flows.discounted_fisher(PROBLEM, jax.nn.log_softmax, LOGITS[4]), expected, atol=1e-14)


def test_the_optimum_is_the_best_of_all_deterministic_policies():
    best = flows.optimum(PROBLEM)
    worth = {
        actions: np.asarray(flows.discounted_values(PROBLEM, np.eye(3)[list(actions)]).value)
        for actions in itertools.product(range(3), repeat=4)
    }
    np.testing.assert_allclose(best.value, np.max(list(worth.values()), axis=0), rtol=1e-12)
    np.testing.assert_allclose(worth[tuple(np.asarray(best.action).tolist())], best.value, rtol=1e-12)
    law = flows.discounted_values(PROBLEM, np.eye(3)[np.asarray(best.action)]).occupancy
    assert float(flows.mismatch(PROBLEM, best.occupancy)) == pytest.approx(float(np.max(law / PROBLEM.initial)))


def test_what_cannot_be_a_problem_is_refused():
    with pytest.raises(SettingError, match=r"^discount: 1.0 must lie in \[0, 1\)"):
        flows.from_mdp(oracle.make_mdp([1.0], [[[1.0]]], [[1.0]], horizon=3))
    with pytest.raises(SettingError, match="^transition: "):
        flows.make_discounted([1.0], [[[1.0, 0.0]]], [[1.0]], 0.5)
    with pytest.raises(SettingError, match="^branches: 9 must lie between 1 and"):
        flows.garnet(0, branches=9)
    with pytest.raises(SettingError, match="^length: 2 must be at least 3"):
        flows.delaying_chain(2)
    with pytest.raises(SettingError, match="^steps: .*must be increasing integers"):
        flows.integrate(PROBLEM, flows.softmax_gradient(), LOGITS[4], [0, 3, 3], flows.fixed(1.0))
    for make in (flows.entropy_gradient, flows.log_barrier_gradient, flows.soft_natural_gradient):
        with pytest.raises(SettingError, match=": 0.0 must be positive"):
            make(0.0)


# --- directions ------------------------------------------------------------------------------------------------------

FLOWS = {
    "softmax": (flows.softmax_gradient(), LOGITS[4]),
    "entropy": (flows.entropy_gradient(0.3), LOGITS[4]),
    "log_barrier": (flows.log_barrier_gradient(0.3), LOGITS[4]),
    "natural": (flows.natural_gradient(), LOGITS[4]),
    "natural_by_inversion": (flows.natural_gradient(jax.nn.log_softmax), LOGITS[4]),
    "soft_natural": (flows.soft_natural_gradient(0.3), LOGITS[4]),
    "escort": (flows.escort_gradient(3.0), np.abs(LOGITS[4]) + 0.5),
    "normalised": (flows.normalised(flows.softmax_gradient()), LOGITS[4]),
    "projected": (flows.projected_gradient(), softmax(LOGITS[4])),
    "mirror_kl": (flows.mirror_descent(), softmax(LOGITS[4])),
    "mirror_euclidean": (flows.mirror_descent(flows.EUCLIDEAN), softmax(LOGITS[4])),
}
GRADIENTS = ("softmax", "entropy", "log_barrier", "escort")


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_ascends_what_it_says(name):
    flow, params = FLOWS[name]

    @jax.jit
    def after(alpha):
        moved = flow.retract(params, alpha * flow.direction(PROBLEM, params))
        return flow.ascends(PROBLEM, moved), flow.policy(moved)

    (here, _), (there, probs) = after(0.0), after(1e-6)
    assert there > here
    np.testing.assert_allclose(np.sum(probs, axis=1), 1.0, atol=1e-12)
    assert np.all(np.asarray(probs) >= 0)
    if name in GRADIENTS:  # by differences, it is the gradient
        slope = float(after(1e-6)[0] - after(-1e-6)[0]) / 2e-6
        size = float(jnp.sum(flow.direction(PROBLEM, params) ** 2))
        assert slope == pytest.approx(size, rel=1e-6)


def test_natural_directions_are_advantages_however_computed():
    fast, slow = (FLOWS[name][0].direction(PROBLEM, LOGITS[4]) for name in ("natural", "natural_by_inversion"))
    apart = np.asarray(fast - slow)
    np.testing.assert_allclose(apart - apart.mean(axis=1, keepdims=True), 0, atol=1e-8)


def test_mirror_descent_with_kl_is_the_natural_gradient():
    steps, eta = [0, 1, 7], 0.8
    mirror = flows.integrate(PROBLEM, flows.mirror_descent(), softmax(LOGITS[4]), steps, flows.fixed(eta))
    natural = flows.integrate(
        PROBLEM, flows.natural_gradient(), LOGITS[4], steps, flows.fixed(eta * (1 - PROBLEM.discount))
    )
    np.testing.assert_allclose(mirror.recorded, natural.recorded, rtol=1e-12)
    np.testing.assert_allclose(mirror.params, softmax(np.asarray(natural.params)), atol=1e-12)


def test_a_long_step_of_the_soft_natural_gradient_is_soft_policy_iteration():
    log_probs = jax.nn.log_softmax(LOGITS[4])
    q = np.asarray(flows.soft_values(PROBLEM, log_probs, 0.3)[2])
    flow, step = flows.soft_natural_gradient(0.3), (1 - PROBLEM.discount) / 0.3
    np.testing.assert_allclose(
        flow.policy(LOGITS[4] + step * flow.direction(PROBLEM, LOGITS[4])), softmax(q / 0.3), atol=1e-12
    )


def test_projection_is_the_nearest_point_of_the_simplex():
    x = RNG.normal(size=(50, 4)) * 2
    found = np.asarray(flows.simplex_projection(jnp.asarray(x)))
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-12)
    others = RNG.dirichlet(np.full(4, 0.3), size=(500, 1))
    nearest = np.sum((found - x) ** 2, axis=-1)
    assert np.all(nearest <= np.sum((others - x) ** 2, axis=-1) + 1e-12)


@pytest.mark.costly
def test_a_neural_policy_on_a_gymnax_table():
    tables = oracle.from_gymnax("FrozenLake-misc", discount=0.9)
    problem = flows.from_mdp(tables.mdp)
    agent = make_agent(environments.make("FrozenLake-misc"), hidden=(8,))
    params = jax.tree.map(lambda x: jnp.asarray(x, float), agent.init(jax.random.key(0)))
    log_policy = tables.log_policy(agent)
    flow = flows.softmax_gradient(log_policy)
    exact = jax.grad(lambda p: flows.discounted_objective(problem, log_policy, p))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), flow.direction(problem, params), exact)
    curve = flows.integrate(problem, flow, params, [0, 20], flows.line_searched(64.0))
    assert curve.recorded[1] > 1.2 * curve.recorded[0] > 0


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [False, True])
def test_the_loop_against_numpy(momentum):
    flow, rule, steps = flows.softmax_gradient(), flows.decaying(3.0, 0.5), [0, 1, 2, 9]
    curve = flows.integrate(PROBLEM, flow, LOGITS[4], steps, rule, lowest=flows.objective, momentum=momentum)

    def j(x):
        return float(flows.discounted_objective(PROBLEM, jax.nn.log_softmax, x))

    theta = omega = LOGITS[4]
    found, length = [j(theta)], [0.0]
    for k in range(9):
        alpha = 3.0 / np.sqrt(k + 1)
        new = omega + alpha * np.asarray(flow.direction(PROBLEM, omega))
        ahead = new + k / (k + 3) * (new - theta)
        omega = ahead if momentum and j(ahead) >= j(new) else new
        theta = new
        found.append(j(theta))
        length.append(length[-1] + alpha)
    np.testing.assert_allclose(curve.recorded, np.array(found)[steps], rtol=1e-12)
    np.testing.assert_allclose(curve.length, np.array(length)[steps], rtol=1e-12)
    np.testing.assert_allclose(curve.lowest, np.minimum.accumulate(found)[steps], rtol=1e-12)
    np.testing.assert_allclose(curve.params, theta, rtol=1e-12)


def test_problems_and_steps_are_mapped_over():
    problems = [flows.garnet(seed, states=3, actions=2, branches=2) for seed in range(3)]
    sizes, start = jnp.array([0.1, 2.0]), jnp.zeros((3, 2))

    def ends(problem, size):
        return flows.integrate(problem, flows.softmax_gradient(), start, [5], flows.fixed(size)).recorded[0]

    mapped = jax.vmap(jax.vmap(ends, (None, 0)), (0, None))(flows.stack(problems), sizes)
    one_by_one = [[float(ends(p, s)) for s in sizes] for p in problems]
    np.testing.assert_allclose(mapped, one_by_one, rtol=1e-12)


def test_a_searched_step_is_the_longest_that_gains_enough():
    flow, rule = flows.entropy_gradient(0.3), flows.line_searched(1000.0, 0.5, 0.5)
    x = flow.direction(PROBLEM, LOGITS[4])
    alpha = float(rule(PROBLEM, flow, LOGITS[4], x, 0))

    def enough(a):
        gain = flow.ascends(PROBLEM, LOGITS[4] + a * x) - flow.ascends(PROBLEM, LOGITS[4])
        return bool(gain >= 0.5 * a * jnp.sum(x**2))

    assert enough(alpha) and not enough(2 * alpha)
    assert np.log2(1000.0 / alpha) == pytest.approx(round(np.log2(1000.0 / alpha)))


# --- theorems and traps ----------------------------------------------------------------------------------------------


def check_bound(theorem, problems, steps):
    found = jax.device_get(flows.verify(theorem, problems, steps))
    after = found.steps[0] > 0
    measured, bound = found.measured[:, after], found.bound[:, after]
    excess = bound - measured if theorem.below else measured - bound
    assert np.all(excess <= 1e-11), f"{theorem.name}: {excess.max()} above its bound"
    assert np.all(np.isfinite(measured)) and np.any(np.abs(measured) > 1e-6)
    return found


@pytest.mark.few(6)
@pytest.mark.parametrize("name", flows.THEOREMS)
def test_bounds_hold_on_twenty_problems(name):
    theorem = flows.THEOREMS[name]
    if theorem.bandit:
        problems = [flows.bandit(np.random.default_rng(seed).uniform(size=4)) for seed in range(20)]
    else:
        problems = [flows.garnet(seed, states=3, actions=3, branches=2, discount=0.6) for seed in range(20)]
    check_bound(theorem, problems, flows.moments(100, 12))


@pytest.mark.slow
@pytest.mark.parametrize("name", flows.THEOREMS)
def test_bounds_hold_along_long_curves(name):
    theorem = flows.THEOREMS[name]
    last = 2000 if name in ("escort", "log_barrier_gap") else 100_000
    if theorem.bandit:
        groups = [
            [flows.bandit(np.random.default_rng(seed).uniform(size=arms)) for seed in range(40)] for arms in (2, 10)
        ]
    else:
        groups = [
            [flows.garnet(seed, 5, 3, 3, 0.8) for seed in range(40)],
            [flows.garnet(seed, 2, 4, 1, 0.5) for seed in range(20)],
            [flows.gridworld(3, slip, 0.8) for slip in np.linspace(0, 0.5, 20)],
        ]
    for problems in groups:
        check_bound(theorem, problems, flows.moments(last, 40))


def test_a_theorem_refuses_problems_that_it_is_not_about():
    natural, arms = flows.THEOREMS["natural"], flows.THEOREMS["softmax_bandit"]
    with pytest.raises(SettingError, match=r"^reward: 2.0 must lie in \[0, 1\]"):
        flows.verify(natural, [PROBLEM._replace(reward=2 * np.ones((4, 3)))], [0, 1])
    with pytest.raises(SettingError, match="^initial: 0.0 must be positive for every state"):
        flows.verify(natural, [flows.vanishing_chain(3)], [0, 1])
    with pytest.raises(SettingError, match="^problems: 4 states"):
        flows.verify(arms, [PROBLEM], [0, 1])


def test_soft_optimum_is_no_worse_than_any_soft_policy():
    value, q = flows.soft_optimum(jax.tree.map(jnp.asarray, PROBLEM), 0.3)
    best = flows.soft_values(PROBLEM, jax.nn.log_softmax(q / 0.3), 0.3)[1]
    np.testing.assert_allclose(value, best, rtol=1e-10)
    for seed in range(20):
        other = jax.nn.log_softmax(np.random.default_rng(seed).normal(size=(4, 3)))
        assert np.all(flows.soft_values(PROBLEM, other, 0.3)[1] <= value)


def test_fitted_rates_find_what_was_put_in_and_say_how_sure_they_are():
    k = flows.moments(10_000, 50)
    assert flows.fitted(k, 2.0 / np.maximum(k, 0.1) ** 1.5, "power") == pytest.approx(1.5)
    linear = np.exp(-0.01 * k) + 1e-14 * np.cos(k)  # ends in rounding
    assert flows.fitted(k, linear, "linear") == pytest.approx(0.01, rel=1e-4)
    assert np.isnan(flows.fitted(k, np.zeros(len(k)), "power"))
    rate = flows.over_problems([1.0, 2.0, np.nan])
    assert rate.problems == 2 and rate.low < rate.mean < rate.high


def test_a_bad_corner_holds_softmax_for_a_time_like_one_over_the_best_arms_probability():
    """With two arms dx/dt = 2π(1 − π) for the difference x of logits: the time is sinh x₀ + x₀ by hand."""
    for x in (1.0, 4.0):
        flow = flows.softmax_gradient()
        found = flows.time_until(flows.half_of_the_best, flows.bandit([1.0, 0.0]), flow, np.array([[0.0, x]]))
        assert found == pytest.approx(np.sinh(x) + x, rel=1e-4)


@pytest.mark.costly
def test_the_chain_holds_softmax_for_exponential_time_and_natural_gradients_not_at_all():
    start = {length: np.zeros((length + 2, 4)) for length in (3, 5, 7)}
    times = {
        flow: [flows.time_until(flows.half_of_the_best, flows.vanishing_chain(n), make(), x) for n, x in start.items()]
        for flow, make in (("softmax", flows.softmax_gradient), ("natural", flows.natural_gradient))
    }
    slow, fast = np.diff(np.log(times["softmax"])), np.diff(np.log(times["natural"]))
    assert slow[1] > slow[0] > 0.5 and np.all(fast < 0)


@pytest.mark.costly
def test_each_state_of_the_delaying_chain_waits_longer_than_the_one_before():
    problem = flows.delaying_chain(5, 0.95)
    np.testing.assert_allclose(flows.optimum(problem).value[:5], 0.95 ** (2 * np.arange(1, 6)), rtol=1e-12)
    times = [
        flows.time_until(
            flows.best_likely_everywhere, flows.delaying_chain(n, 0.95), flows.softmax_gradient(), np.zeros((2 * n, 3))
        )
        for n in (3, 4, 5)
    ]
    assert times[2] / times[1] > 1.5 and times[1] / times[0] > 1.5


# --- what a step gains, over every batch ------------------------------------------------------------------------------

TWO_STEPS = oracle.make_mdp([0.6, 0.4], np.full((2, 2, 2), 0.4), [[1.0, 0.0], [-0.5, 2.0]], horizon=2)
THETA = np.array([[0.3, -0.2], [0.1, 0.4]])


@pytest.mark.costly
def test_a_small_step_gains_alpha_times_the_inner_product_of_mean_and_gradient():
    names = ("reward_to_go", "leave_one_out_2", "grpo_2", "first_order", "doubly_robust")
    estimators = oracle.table_estimators(TWO_STEPS, jnp.asarray(THETA), jnp.asarray(THETA[::-1].copy()))
    gradient = jnp.ravel(oracle.exact_gradient(TWO_STEPS, jax.nn.log_softmax, THETA))
    for name in names:
        estimator, sampling = estimators[name]
        mean = oracle.moments(TWO_STEPS, estimator, jax.nn.log_softmax, THETA, sampling).mean
        gain = oracle.expected_improvement(TWO_STEPS, estimator, jax.nn.log_softmax, THETA, [1e-6], sampling)
        assert float(gain.mean[0]) / 1e-6 == pytest.approx(float(mean @ gradient), rel=1e-4), name


@pytest.mark.costly
def test_enumerated_improvement_agrees_with_training():
    """J after one update of batches that are simulated, by another path: rollout, loss, optimiser."""
    alpha, size, runs = 1.5, 2, 4000
    estimator = product(total_return, score)
    algorithm = reinforce(baseline="none").algorithm._replace(optimizer=optax.sgd(alpha), estimator=estimator)
    trainer = make_trainer(oracle.environment(TWO_STEPS), oracle.tabular_agent(TWO_STEPS), Config(num_envs=size))
    state = trainer.init(algorithm, jax.random.key(0))
    state = state._replace(params=state.params | {"policy": jnp.asarray(THETA)})

    @jax.jit
    @jax.vmap
    def after(key):
        new = trainer.update(algorithm, state._replace(key=key))[0].params["policy"]
        return oracle.exact_values(TWO_STEPS, jax.nn.log_softmax(new)).objective

    drawn = np.asarray(after(jax.random.split(jax.random.key(1), runs)))
    drawn = drawn - float(oracle.exact_values(TWO_STEPS, jax.nn.log_softmax(THETA)).objective)
    sampling = oracle.Sampling(batch_size=size)
    exact = oracle.expected_improvement(TWO_STEPS, estimator, jax.nn.log_softmax, THETA, [alpha], sampling)
    error = float(exact.deviation[0]) / np.sqrt(runs)
    assert abs(drawn.mean() - float(exact.mean[0])) < 4 * error < 0.5 * abs(float(exact.mean[0]))
    assert drawn.std() == pytest.approx(float(exact.deviation[0]), rel=0.1)
    assert np.mean(drawn < -1e-12) == pytest.approx(float(exact.falls[0]), abs=4 * 0.5 / np.sqrt(runs))


def test_too_many_batches_are_refused():
    with pytest.raises(SettingError, match="^batch_size: 40 means .* batches of .* trajectories"):
        oracle.expected_improvement(
            TWO_STEPS, product(total_return, score), jax.nn.log_softmax, THETA, [1.0], oracle.Sampling(batch_size=40)
        )
