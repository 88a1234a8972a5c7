"""Natural gradient and trust region: against exact Fisher matrices, and over many random problems."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import MDPS

from pgjax import Categorical, Gaussian, oracle, steps

log_policy = jax.nn.log_softmax


@functools.cache
def solved(name, timed):
    """Everything on one tabular problem, in one compiled function; `timed` policies have a table for every time."""
    mdp, rng = MDPS[name], np.random.default_rng(3)
    theta = rng.normal(size=(mdp.horizon, *mdp.reward.shape) if timed else mdp.reward.shape)
    vectors = rng.normal(size=(3, *theta.shape))
    trajectories, agent = oracle.enumerate_trajectories(mdp), oracle.mdp_agent(log_policy)

    @jax.jit
    def solve(theta):
        rows = oracle.as_transition(mdp, trajectories, log_policy(theta))
        problem = steps.PolicyProblem(
            policy=theta,
            gradient=oracle.exact_gradient(mdp, log_policy, theta),
            surrogate=lambda policy: jnp.zeros(()),
            distribution=lambda policy: agent.policy(policy, rows.observation),
            weight=oracle.trajectory_probability(mdp, trajectories, log_policy(theta)) * rows.mask,
        )
        values = oracle.exact_values(mdp, log_policy(theta))
        return Solved(
            mdp=mdp,
            vectors=vectors,
            fisher=oracle.exact_fisher(mdp, log_policy, theta),
            products=jax.lax.map(lambda v: steps.fisher_product(problem, v), vectors),
            gradient=problem.gradient,
            natural=steps.natural_direction(problem, 0.0),
            pi=jnp.exp(log_policy(theta)),
            law=values.state_law,
            advantage=mdp.discount ** jnp.arange(mdp.horizon)[:, None, None]
            * (values.action_value - values.value[:-1, :, None]),
        )

    return jax.tree.map(np.asarray, solve(theta))


class Solved(NamedTuple):
    mdp: oracle.MDP
    vectors: np.ndarray
    fisher: np.ndarray
    products: np.ndarray
    gradient: np.ndarray
    natural: tuple  # F⁻¹g and its xᵀFx
    pi: np.ndarray
    law: np.ndarray  # [T, S]
    advantage: np.ndarray  # γ^t A_t(s, a)


EXACT = [*((name, False) for name in MDPS), ("fixed_length", True)]


@pytest.mark.parametrize(("name", "timed"), EXACT)
def test_fisher_product_is_the_exact_fisher_matrix(x64, name, timed):
    of = solved(name, timed)
    np.testing.assert_allclose(of.products.reshape(3, -1), of.vectors.reshape(3, -1) @ of.fisher, atol=1e-10)
    assert np.abs(of.products).max() > 1e-2


@pytest.mark.parametrize(("name", "timed"), EXACT)
def test_natural_direction_is_the_pseudo_inverse_times_the_gradient(x64, name, timed):
    of = solved(name, timed)
    (x, size), g = of.natural, of.gradient.ravel()
    np.testing.assert_allclose(x.ravel(), np.linalg.pinv(of.fisher, rcond=1e-10) @ g, atol=1e-8)
    np.testing.assert_allclose(of.fisher @ x.ravel(), g, atol=1e-8)
    np.testing.assert_allclose(size, g @ x.ravel(), rtol=1e-8)


def test_with_a_table_for_every_time_the_natural_direction_is_the_advantage(x64):
    """x_t(s, ·) = γ^t A_t(s, ·) up to a constant in each (t, s), which the pseudo-inverse chooses: mean 0."""
    of = solved("fixed_length", True)
    np.testing.assert_allclose(of.natural[0], of.advantage - of.advantage.mean(-1, keepdims=True), atol=1e-8)


@pytest.mark.parametrize("name", MDPS)
def test_with_one_table_the_natural_direction_is_the_best_fit_to_the_advantage(x64, name):
    """Compatible features: x = argmin Σ_t E[(score_tᵀ x − γ^t A_t)²]; one table cannot match A_t at every t."""
    of = solved(name, False)
    states, actions = of.pi.shape
    scores = (
        np.einsum("sk,ab->sakb", np.eye(states), np.eye(actions))
        - np.einsum("sk,sb->skb", np.eye(states), of.pi)[:, None]
    )
    root = np.sqrt(of.law[:, :, None] * of.pi)  # [T, S, A]
    features = (root[..., None, None] * scores).reshape(root.size, -1)
    best = np.linalg.lstsq(features, (root * of.advantage).ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(of.natural[0].ravel(), best, atol=1e-8)


def test_conjugate_gradients_solve_positive_systems(x64):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 8, 8))
    matrices = root @ root.transpose(0, 2, 1) + 0.5 * np.eye(8)
    right = rng.normal(size=(50, 8))

    def solve(a, b):
        tree = steps.conjugate_gradients(
            lambda v: {"x": (a @ jnp.r_[v["x"], v["y"]])[:5], "y": (a @ jnp.r_[v["x"], v["y"]])[5:]},
            {"x": b[:5], "y": b[5:]},
        )
        return jnp.r_[tree["x"], tree["y"]]

    found = jax.jit(jax.vmap(solve))(matrices, right)
    expected = np.linalg.solve(matrices, right[..., None])[..., 0]
    error = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert error.max() < 1e-4  # a residual of 1e-6 is enough to stop
    assert not np.asarray(jax.jit(solve)(matrices[0], np.zeros(8))).any()


@pytest.mark.costly
def test_under_vmap_conjugate_gradients_give_what_they_give_alone():
    """Three policies of 64-64 units, 2048 rows, float32: where a while loop under vmap went wrong."""
    widths = (4, 64, 64, 2)

    def solve(key):
        keys = jax.random.split(key, 6)
        rows, credit = jax.random.normal(keys[0], (2048, 4)), jax.random.normal(keys[1], (2048,))
        actions = jax.random.bernoulli(keys[2], 0.5, (2048,)).astype(int)
        shapes = zip(keys[3:], widths[:-1], widths[1:], strict=True)
        policy = [1.4 * jax.random.normal(k, (n, m)) / jnp.sqrt(n) for k, n, m in shapes]
        policy[-1] *= 0.01

        def distribution(policy):
            return Categorical(jnp.tanh(jnp.tanh(rows @ policy[0]) @ policy[1]) @ policy[2])

        def surrogate(policy):
            return jnp.mean(distribution(policy).log_prob(actions) * credit)

        gradient = jax.grad(surrogate)(policy)
        problem = steps.PolicyProblem(policy, gradient, surrogate, distribution, jnp.full(2048, 1 / 2048))
        direction = steps.natural_direction(problem, 1e-2)[0]
        return optax.tree.norm(direction)

    keys = jax.random.split(jax.random.key(0), 3)
    together, alone = jax.jit(lambda: (jax.vmap(solve)(keys), jax.lax.map(solve, keys)))()
    np.testing.assert_allclose(together, alone, rtol=1e-2)


class Case(NamedTuple):
    """A random small problem: a linear policy, states it has visited, actions taken, their advantages."""

    policy: dict
    states: np.ndarray  # [T, N, D]
    actions: np.ndarray
    advantage: np.ndarray
    weight: np.ndarray
    max_kl: np.ndarray


def cases(kind, count=200, rows=(4, 3), size=2, outputs=3):
    rng = np.random.default_rng({"softmax": 0, "gaussian": 1}[kind])
    policy = {"w": rng.normal(size=(count, size, outputs)), "b": rng.normal(size=(count, outputs))}
    actions = rng.integers(outputs, size=(count, *rows))
    states = rng.normal(size=(count, *rows, size))
    if kind == "gaussian":
        policy["log_std"] = 0.5 * rng.normal(size=(count, outputs))
        mean = np.einsum("ctnd,cdo->ctno", states, policy["w"]) + policy["b"][:, None, None]
        scale = np.exp(policy["log_std"])[:, None, None]
        actions = mean + scale * rng.normal(size=(count, *rows, outputs))
    mask = (rng.uniform(size=(count, *rows)) < 0.8) + 1e-3
    return Case(
        policy=policy,
        states=states,
        actions=actions,
        advantage=3 * rng.normal(size=(count, *rows)),
        weight=mask / mask.sum((1, 2), keepdims=True),
        max_kl=10 ** rng.uniform(-3, 0.5, size=count),
    )


def problem_of(case):
    def distribution(policy):
        out = case.states @ policy["w"] + policy["b"]
        if "log_std" not in policy:
            return Categorical(out)
        return Gaussian(out, jnp.broadcast_to(policy["log_std"], out.shape), -jnp.ones(3), jnp.ones(3))

    def surrogate(policy):
        now, before = (distribution(p).log_prob(case.actions) for p in (policy, case.policy))
        return jnp.sum(case.weight * jnp.exp(now - before) * case.advantage)

    gradient = jax.grad(surrogate)(case.policy)
    return steps.PolicyProblem(case.policy, gradient, surrogate, distribution, case.weight)


def policy_in_numpy(case, policy):
    """log-probabilities of the taken actions, and a function that gives KL(this ‖ other) per state."""
    out = np.einsum("ctnd,cdo->ctno", case.states, policy["w"]) + policy["b"][:, None, None]
    if "log_std" not in policy:
        p = np.exp(out - out.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        taken = np.take_along_axis(np.log(p), case.actions[..., None], -1)[..., 0]
        return taken, p
    scale = np.broadcast_to(np.exp(policy["log_std"])[:, None, None], out.shape)
    z = (case.actions - out) / scale
    return -(z**2 / 2 + np.log(scale)).sum(-1), (out, scale)


def kl_in_numpy(case, old, new):
    """Mean KL(old ‖ new), [C]."""
    p, q = policy_in_numpy(case, old)[1], policy_in_numpy(case, new)[1]
    if isinstance(p, tuple):
        (m, s), (k, r) = p, q
        each = (np.log(r / s) + (s**2 + (m - k) ** 2) / (2 * r**2) - 0.5).sum(-1)
    else:
        each = (p * np.log(p / q)).sum(-1)
    return (case.weight * each).sum((1, 2))


def surrogate_in_numpy(case, new):
    ratio = np.exp(policy_in_numpy(case, new)[0] - policy_in_numpy(case, case.policy)[0])
    return (case.weight * ratio * case.advantage).sum((1, 2))


def bits(tree):
    return [np.asarray(x).view(np.int64) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("kind", ["softmax", "gaussian"])
def test_a_trust_region_step_keeps_its_promises(x64, kind):
    @jax.jit
    @jax.vmap
    def step(case, sign, max_kl):
        problem = problem_of(case)
        problem = problem._replace(gradient=jax.tree.map(lambda g: sign * g, problem.gradient))
        return steps.trust_region_step(problem, max_kl, jnp.inf, 1e-8)

    case = cases(kind)
    count = len(case.max_kl)
    new, metrics = step(case, np.ones(count), case.max_kl)
    accepted = np.asarray(metrics["accepted"]) == 1
    kl = kl_in_numpy(case, case.policy, new)
    assert (kl <= case.max_kl * (1 + 1e-9)).all()
    np.testing.assert_allclose(metrics["kl_step"], kl, atol=1e-10)
    before, after = (surrogate_in_numpy(case, policy) for policy in (case.policy, new))
    assert (after[accepted] > before[accepted]).all()
    assert 0.9 * count < accepted.sum()
    tries = np.asarray(metrics["backtracks"])
    assert (tries[accepted] == 0).sum() > 0.05 * count and (tries[accepted] > 0).sum() > 0.05 * count
    assert (np.asarray(metrics["step_length"])[accepted] > 0).all() and (kl[accepted] > 0).all()

    # Downhill, and close enough that the surrogate has no second hill: every search is rejected.
    old, metrics = step(case, -np.ones(count), np.full(count, 1e-8))
    assert not metrics["accepted"].any() and not metrics["step_length"].any()
    for a, b in zip(bits(old), bits(case.policy), strict=True):
        np.testing.assert_array_equal(a, b)

    # Nothing to gain: a surrogate that stays level is no rise, and a zero gradient gives no NaN.
    old, metrics = step(case._replace(advantage=np.zeros_like(case.advantage)), np.ones(count), case.max_kl)
    assert not metrics["accepted"].any()
    for a, b in zip(bits(old), bits(case.policy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_kl_is_old_to_new():
    """Halving σ: KL(old ‖ new) = log ½ + 2 − ½ = 0.807, the other way round log 2 + ⅛ − ½ = 0.318."""

    def distribution(policy):
        return Gaussian(jnp.zeros((1, 1, 1)), policy[None, None, None], -jnp.ones(1), jnp.ones(1))

    zero = jnp.zeros(())
    problem = steps.PolicyProblem(zero, zero, lambda policy: -policy, distribution, jnp.ones((1, 1)))
    np.testing.assert_allclose(problem.kl(-jnp.log(2.0)), np.log(0.5) + 2 - 0.5, rtol=1e-5)
    # F = 2: the full step is −√max_kl, and only the first shortening but one keeps KL(old ‖ new) below it.
    problem = problem._replace(gradient=-jnp.ones(()))
    new, metrics = jax.jit(lambda: steps.trust_region_step(problem, max_kl=0.5, damping=0.0))()
    lengths = np.sqrt(0.5) * steps.SHRINK ** np.arange(steps.BACKTRACKS)
    forward = -lengths + np.exp(2 * lengths) / 2 - 0.5
    first = int(np.argmax(forward <= 0.5))
    assert first > 0 and metrics["backtracks"] == first
    np.testing.assert_allclose(new, -lengths[first], rtol=1e-4)


def test_a_natural_step_is_as_long_as_kl_and_step_size_allow(x64):
    @jax.jit
    @jax.vmap
    def step(case, step_size, damping):
        problem = problem_of(case)
        new, metrics = steps.natural_step(problem, case.max_kl, step_size, damping)
        direction = steps.natural_direction(problem, damping)[0]
        moved = jax.tree.map(jnp.subtract, new, case.policy)
        curved = jax.tree.map(lambda f, v: f + damping * v, steps.fisher_product(problem, moved), moved)
        return moved, direction, 0.5 * optax.tree.vdot(moved, curved), metrics

    case = cases("softmax", count=60)
    damping = np.where(np.arange(60) % 2, 1e-2, 1e-6)
    moved, direction, second_order, free = step(case, np.full(60, np.inf), damping)
    np.testing.assert_allclose(second_order, case.max_kl, rtol=1e-8)
    lengths = np.asarray(free["step_length"])
    np.testing.assert_allclose(free["kl_step"], kl_in_numpy(case, case.policy, add(case.policy, moved)), rtol=1e-8)
    bound = np.median(lengths)
    moved, _, second_order, held = step(case, np.full(60, bound), damping)
    np.testing.assert_allclose(held["step_length"], np.minimum(lengths, bound), rtol=1e-12)
    assert (second_order <= case.max_kl * (1 + 1e-8)).all()
    for name in moved:
        scale = np.asarray(held["step_length"]).reshape(-1, *[1] * (moved[name].ndim - 1))
        np.testing.assert_allclose(moved[name], scale * direction[name], atol=1e-10)


def add(policy, moved):
    return {name: policy[name] + np.asarray(moved[name]) for name in policy}


@pytest.mark.parametrize("step", [steps.natural_step, steps.trust_region_step])
def test_steps_do_not_depend_on_the_coordinates(x64, step):
    """θ = M φ: the step in φ, seen in θ, is the step in θ. (Two of three logits: the Fisher matrix has full rank.)"""
    rng = np.random.default_rng(2)

    @jax.jit
    @jax.vmap
    def both(theta, mix, states, actions, advantage):
        weight = jnp.full(actions.shape, 1 / actions.size)

        def in_coordinates(to_theta, policy):
            def distribution(policy):
                out = states @ to_theta(policy).reshape(2, 2)
                return Categorical(jnp.concatenate([out, jnp.zeros((*out.shape[:-1], 1))], axis=-1))

            def surrogate(new):
                log_ratio = distribution(new).log_prob(actions) - distribution(policy).log_prob(actions)
                return jnp.sum(weight * jnp.exp(log_ratio) * advantage)

            problem = steps.PolicyProblem(policy, jax.grad(surrogate)(policy), surrogate, distribution, weight)
            return step(problem, max_kl=0.2, damping=0.0)

        moved, metrics = in_coordinates(lambda x: x, theta)
        mixed, mixed_metrics = in_coordinates(lambda x: mix @ x, jnp.linalg.solve(mix, theta))
        return (moved, metrics["kl_step"]), (mix @ mixed, mixed_metrics["kl_step"])

    count = 40
    plain, mixed = both(
        rng.normal(size=(count, 4)),
        rng.normal(size=(count, 4, 4)) + 2 * np.eye(4),
        rng.normal(size=(count, 10, 2, 2)),
        rng.integers(3, size=(count, 10, 2)),
        rng.normal(size=(count, 10, 2)),
    )
    np.testing.assert_allclose(mixed[0], plain[0], atol=1e-8)
    np.testing.assert_allclose(mixed[1], plain[1], atol=1e-8)
    assert (plain[1] > 0).mean() > 0.9
