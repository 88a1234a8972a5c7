"""Every flow and every theorem's method, step by step against its closed form in plain NumPy.

Bounds are loose: a wrong sign or factor can hide below them. Here nothing can.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.oracle import flows

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(9)
TAU, BARRIER = 0.1, 0.05  # of the theorems


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def values(problem, pi, tau=0.0):
    """J, V, Q and the normalised law of states, with τ H(π) earned in every state."""
    stays = problem.discount * np.einsum("sa,sax->sx", pi, problem.transition)
    earned = np.sum(pi * (problem.reward - tau * np.log(np.where(pi > 0, pi, 1.0))), axis=1)
    v = np.linalg.solve(np.eye(len(stays)) - stays, earned)
    law = np.linalg.solve(np.eye(len(stays)) - stays.T, problem.initial) * (1 - problem.discount)
    return problem.initial @ v, v, problem.reward + problem.discount * problem.transition @ v, law


def advantage(problem, pi, tau=0.0):
    _, v, q, _ = values(problem, pi, tau)
    return q - tau * np.log(pi) - v[:, None]


def gradient(problem, pi, tau=0.0):
    """∂J/∂θ(s, a) in logits: d(s) π(a|s) A(s, a)/(1 − γ)."""
    return values(problem, pi, tau)[3][:, None] * pi * advantage(problem, pi, tau) / (1 - problem.discount)


def barrier_gradient(problem, pi, weight):
    states, actions = pi.shape
    return gradient(problem, pi) + weight / states * (1 / actions - pi)


def project(x):
    """On the simplex, by bisection for the shift."""
    low, high = x.max(-1, keepdims=True) - 1.0, x.max(-1, keepdims=True)
    for _ in range(100):
        middle = (low + high) / 2
        above = np.maximum(x - middle, 0).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(x - low, 0.0)


def escort(theta, power=2.0):
    return np.abs(theta) ** power / np.sum(np.abs(theta) ** power, axis=-1, keepdims=True)


# --- one step of every flow ------------------------------------------------------------------------------------------

PROBLEM = flows.garnet(3, states=4, actions=3, branches=2, discount=0.7)
THETA = RNG.normal(size=(4, 3))
PI, POSITIVE, ETA, LEFT = softmax(THETA), np.abs(THETA) + 0.5, 0.37, 0.3
Q = values(PROBLEM, PI)[2]
LAW = values(PROBLEM, PI)[3][:, None]


def after_soft_natural():
    power = 1 - ETA * 0.2 / LEFT
    new = PI**power * np.exp(ETA * values(PROBLEM, PI, 0.2)[2] / LEFT)
    return new / new.sum(1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x)


ONE_STEP = {  # flow, θ, the policy after a step of η
    "softmax": (flows.softmax_gradient(), THETA, lambda: softmax(THETA + ETA * gradient(PROBLEM, PI))),
    "entropy": (flows.entropy_gradient(0.2), THETA, lambda: softmax(THETA + ETA * gradient(PROBLEM, PI, 0.2))),
    "log_barrier": (
        flows.log_barrier_gradient(0.2),
        THETA,
        lambda: softmax(THETA + ETA * barrier_gradient(PROBLEM, PI, 0.2)),
    ),
    "natural": (flows.natural_gradient(), THETA, lambda: softmax(THETA + ETA * advantage(PROBLEM, PI) / LEFT)),
    "soft_natural": (flows.soft_natural_gradient(0.2), THETA, after_soft_natural),
    "escort": (
        flows.escort_gradient(3.0),
        POSITIVE,
        lambda: escort(POSITIVE + ETA * 3 / POSITIVE * gradient(PROBLEM, escort(POSITIVE, 3)), 3),
    ),
    "normalised": (
        flows.normalised(flows.softmax_gradient()),
        THETA,
        lambda: softmax(THETA + ETA * unit(gradient(PROBLEM, PI))),
    ),
    "projected": (flows.projected_gradient(), PI, lambda: project(PI + ETA * LAW * Q / LEFT)),
    "mirror_kl": (flows.mirror_descent(), PI, lambda: softmax(np.log(PI) + ETA * Q)),
    "mirror_euclidean": (flows.mirror_descent(flows.EUCLIDEAN), PI, lambda: project(PI + ETA * Q)),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_step_of_every_flow_is_its_closed_form(name):
    flow, params, expected = ONE_STEP[name]
    moved = flow.policy(flow.retract(params, ETA * flow.direction(PROBLEM, params)))
    np.testing.assert_allclose(moved, expected(), atol=1e-12)


def test_what_flows_ascend():
    j, soft = values(PROBLEM, PI)[0], values(PROBLEM, PI, 0.2)[0]
    barrier = j + 0.2 * (np.log(PI).mean() + np.log(3))
    for name, expected in (("softmax", j), ("entropy", soft), ("soft_natural", soft), ("log_barrier", barrier)):
        flow, params, _ = ONE_STEP[name]
        np.testing.assert_allclose(flow.ascends(PROBLEM, params), expected, rtol=1e-12, err_msg=name)


# --- the first steps of every theorem --------------------------------------------------------------------------------

GARNET = flows.garnet(1, states=3, actions=3, branches=2, discount=0.6)
ARMS = flows.bandit([0.2, 0.9, 0.5, 0.6])


def policies(problem):
    states, actions = problem.reward.shape
    return [np.eye(actions)[list(choice)] for choice in itertools.product(range(actions), repeat=states)]


def best(problem):
    return max(policies(problem), key=lambda pi: values(problem, pi)[0])


def searched(objective, theta, x):
    """The first of 64, 32, … that gains half of what the slope promises."""
    alpha = 64.0
    while objective(theta + alpha * x) < objective(theta) + 0.5 * alpha * np.sum(x**2):
        alpha /= 2
    return theta + alpha * x


def normalised_step(problem):
    left = 1 - problem.discount
    most = max(np.max(values(problem, pi)[3] / problem.initial) for pi in policies(problem))
    return left / ((6 * left + 8 * (most - left)) * len(problem.initial) ** 0.5)


def growing_step(problem, k):
    left = 1 - problem.discount
    far = np.max(values(problem, best(problem))[3] / problem.initial) / left
    return left * (far / (far - 1)) ** k


def on_logits(move):
    return np.zeros, softmax, lambda problem, theta, k: theta + move(problem, softmax(theta), k)


def on_probabilities(move):
    start = lambda shape: np.full(shape, 1 / shape[1])  # noqa: E731
    return start, lambda pi: pi, lambda problem, pi, k: project(pi + move(problem, pi, k))


def escort_search(problem, theta, k):
    x = 2 / theta * gradient(problem, escort(theta))
    return searched(lambda y: values(problem, escort(y))[0], theta, x)


def barrier_search(problem, theta, k):
    def objective(y):
        return values(problem, softmax(y))[0] + BARRIER * np.log(softmax(y)).mean()

    return searched(objective, theta, barrier_gradient(problem, softmax(theta), BARRIER))


def smoothness(problem):
    return 8 / (1 - problem.discount) ** 3


METHODS = {  # start, θ -> π, one step
    "softmax": on_logits(lambda p, pi, k: gradient(p, pi) / smoothness(p)),
    "softmax_bandit": on_logits(lambda p, pi, k: 0.4 * gradient(p, pi)),
    "softmax_bandit_lower": on_logits(lambda p, pi, k: 0.4 * gradient(p, pi)),
    "normalised": on_logits(lambda p, pi, k: normalised_step(p) * unit(gradient(p, pi))),
    "normalised_bandit": on_logits(lambda p, pi, k: unit(gradient(p, pi)) / 6),
    "escort": (np.ones, escort, escort_search),
    "entropy": on_logits(
        lambda p, pi, k: (1 - p.discount) ** 3 / (8 + TAU * (4 + 8 * np.log(3))) * gradient(p, pi, TAU)
    ),
    "soft_natural": (np.zeros, softmax, lambda p, theta, k: values(p, softmax(theta), TAU)[2] / TAU),
    "log_barrier": on_logits(
        lambda p, pi, k: barrier_gradient(p, pi, BARRIER) / (smoothness(p) + 2 * BARRIER / len(p.initial))
    ),
    "log_barrier_gap": (np.zeros, softmax, barrier_search),
    "natural": on_logits(lambda p, pi, k: advantage(p, pi) / (1 - p.discount)),
    "mirror_euclidean": on_probabilities(lambda p, pi, k: values(p, pi)[2]),
    "mirror_growing": on_logits(lambda p, pi, k: growing_step(p, k) * advantage(p, pi) / (1 - p.discount)),
    "projected": on_probabilities(
        lambda p, pi, k: (
            (1 - p.discount) ** 3 / (2 * p.discount * 3) * values(p, pi)[3][:, None] * values(p, pi)[2]
            / (1 - p.discount)
        )
    ),
}  # fmt: skip
SOFT = ("entropy", "soft_natural")  # their gap is that of J with the entropy


QUICK = ("entropy", "mirror_growing", "softmax_bandit", "soft_natural")


@pytest.mark.costly
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in flows.THEOREMS])
def test_the_first_steps_of_a_theorem_are_those_of_its_method(name):
    theorem = flows.THEOREMS[name]
    problem = ARMS if theorem.bandit else GARNET
    found = jax.device_get(flows.verify(theorem, [problem], np.arange(4))).gap[0]
    start, policy, step = METHODS[name]
    theta, expected = start(problem.reward.shape), []
    for k in range(4):
        expected.append(values(problem, policy(theta), TAU if name in SOFT else 0.0)[0])
        theta = step(problem, theta, k)
    np.testing.assert_allclose(found[0] - found, np.array(expected) - expected[0], atol=1e-11)
    assert abs(expected[3] - expected[0]) > 1e-4
    if name not in SOFT:
        np.testing.assert_allclose(found[0], values(problem, best(problem))[0] - expected[0], atol=1e-11)


def test_soft_policy_iteration_contracts_at_every_step():
    """Not from its start alone: max (V*_τ − V_{k+1}) ≤ γ max (V*_τ − V_k); and it ends faster than that."""
    problems = [flows.garnet(seed, states=3, actions=3, branches=2, discount=0.9) for seed in range(20)]
    far = jax.device_get(flows.verify(flows.THEOREMS["soft_natural"], problems, np.arange(6))).measured
    assert np.all(far[:, 1:] <= 0.9 * far[:, :-1] + 1e-12)
    assert np.all(far[:, 3] < 0.9**3 * far[:, 0] / 10)


def test_momentum_extrapolates_what_the_gradient_did():
    """Three steps by hand: the third starts at θ_2 + (θ_2 − θ_1)/4."""
    size, theta = 0.5, THETA
    flow = flows.softmax_gradient()
    one = theta + size * gradient(PROBLEM, softmax(theta))
    two = one + size * gradient(PROBLEM, softmax(one))
    ahead = two + (two - one) / 4
    assert values(PROBLEM, softmax(ahead))[0] > values(PROBLEM, softmax(two))[0]
    three = ahead + size * gradient(PROBLEM, softmax(ahead))
    found = flows.integrate(PROBLEM, flow, jnp.asarray(theta), [3], flows.fixed(size), momentum=True).params
    np.testing.assert_allclose(found, three, atol=1e-12)
