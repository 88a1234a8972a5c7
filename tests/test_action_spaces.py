"""Actions of any space: what their distributions are, what masks do to them, and that every method learns with them."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from parts.update_table import ACTIONS
from scipy import stats
from scipy.integrate import quad

from pgjax import (
    ALGORITHMS,
    Environment,
    Gaussian,
    SettingError,
    evaluate,
    make_agent,
    make_trainer,
    oracle,
    reinforce,
    train,
)
from pgjax.environments import base
from pgjax.estimators.open_boxes import OpenGaussian, OpenSquashedGaussian, expected_log_sigmoid
from pgjax.policies.actions import distribution, outputs
from pgjax.policies.masks import find_masks, flat_mask
from pgjax.policies.uniform import uniform_policy
from pgjax.spaces import Box, Discrete, MultiBinary, MultiDiscrete, combinations, number, parts

INF = math.inf
NESTED = {"go": Discrete(3), "with": (MultiDiscrete((2, 3)), MultiBinary((2,)))}
KEY = jax.random.key(0)


def policy_over(space, seed=0, masks=None):
    logits = jax.random.normal(jax.random.key(seed), (outputs(space),))
    return distribution(space, "auto", logits, None, [None] * len(parts(space)[0]) if masks is None else masks)


# --- densities and probabilities


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(
    "space", [NESTED, MultiDiscrete(((2, 3), (1, 4))), MultiBinary((3,)), Discrete(4), (Discrete(2),)]
)
def test_the_probabilities_of_all_combinations_are_those_of_a_product_and_sum_to_1(space):
    with jax.enable_x64(True):
        policy, every = policy_over(space), combinations(space)
        log_prob = jax.vmap(policy.log_prob)(every)
        count = math.prod(math.prod((p.n,) if isinstance(p, Discrete) else p.counts) for p in parts(space)[0])
        assert log_prob.shape == (count,) and len({a.tobytes() for a in rows_of(every)}) == count
        p = np.exp(log_prob)
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-13)
        np.testing.assert_allclose(policy.entropy(), -(p * log_prob).sum(), rtol=1e-12)
        other = policy_over(space, seed=1)
        there = jax.vmap(other.log_prob)(every)
        np.testing.assert_allclose(policy.kl(other), (p * (log_prob - there)).sum(), rtol=1e-10)
        np.testing.assert_array_equal(number(space, every), np.arange(count))
        best = jax.tree.map(lambda x: x[np.argmax(p)], every)
        jax.tree.map(np.testing.assert_array_equal, policy.mode(), best)


def rows_of(every):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(every)], axis=1)


@pytest.mark.costly
def test_sampling_frequencies_are_the_probabilities():
    policy, draws = policy_over(NESTED), 200_000
    drawn = policy.at(policy.noise(KEY, (draws,)))
    found = np.bincount(number(NESTED, drawn), minlength=72)
    expected = draws * np.exp(jax.vmap(policy.log_prob)(combinations(NESTED)))
    assert stats.chisquare(found, expected * draws / expected.sum()).pvalue > 1e-3


@pytest.mark.costly
@pytest.mark.few(4)
@pytest.mark.parametrize("made", [OpenGaussian, OpenSquashedGaussian])
@pytest.mark.parametrize(("low", "high"), [(-INF, INF), (3.0, INF), (-INF, -1.0), (-2.0, 4.0)])
def test_densities_integrate_to_1_and_entropies_are_their_own(made, low, high):
    with jax.enable_x64(True):
        policy = made(*(jnp.array([x]) for x in (0.3, -0.5, low, high)))
        bounded = math.isfinite(low) and math.isfinite(high)
        width = 0.5 * (high - low) if bounded else 1.0

        @jax.jit
        def both(u):  # log-density of a, in units of half the box where there is one, and |da/du|
            slope = jax.jacfwd(policy.to_environment)(u[None])[0, 0] / width
            return policy.log_prob(u[None]), jnp.abs(slope)

        if bounded and made is OpenGaussian:  # clipped: the density is that of u
            both = lambda u: (policy.log_prob(jnp.array([u])), 1.0)  # noqa: E731
        mass = quad(lambda u: float(np.exp(both(jnp.float64(u))[0]) * both(jnp.float64(u))[1]), -9, 9)[0]
        entropy = quad(lambda u: float(-both(jnp.float64(u))[0] * stats.norm.pdf(u, 0.3, np.exp(-0.5))), -9, 9)[0]
        assert mass == pytest.approx(1.0, abs=1e-8) and float(policy.entropy()) == pytest.approx(entropy, abs=1e-7)
        drawn = policy.to_environment(policy.at(policy.noise(KEY, (1000,))))
        assert (drawn >= low).all() and (drawn <= high).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-3.0, 0.1), (5.0, 2.5), (-20.0, 4.0)])
def test_the_mean_log_slope_of_a_softplus_is_that_of_quadrature(mean, std):
    with jax.enable_x64(True):
        exact = quad(lambda z: -np.logaddexp(0, -(mean + std * z)) * stats.norm.pdf(z), -12, 12)[0]
        assert float(expected_log_sigmoid(jnp.array(mean), jnp.log(jnp.array(std)))) == pytest.approx(exact, abs=1e-7)


def test_open_boxes_with_two_bounds_are_the_closed_ones():
    args = [jnp.array([x]) for x in (0.3, -0.5, -2.0, 4.0)]
    u = jnp.array([0.7])
    for method in ("log_prob", "to_environment"):
        assert getattr(OpenGaussian(*args), method)(u) == getattr(Gaussian(*args), method)(u)


# --- the oracle


@pytest.mark.parametrize("kind", ACTIONS)
def test_estimators_stay_exact_with_products_of_policies_and_masks(kind):
    """Mean of REINFORCE and of per-decision importance sampling, against ∇J, for θ of a product of softmaxes."""
    actions = ACTIONS[kind]
    with jax.enable_x64(True):
        mdp = oracle.make_mdp([0.6, 0.4], actions.transition, actions.reward, horizon=2, discount=0.9)

        def log_policy(theta):
            agent = oracle.tabular_agent(mdp, actions=actions.space, masks=actions.masks)
            policy = agent.policy({"policy": theta}, (jnp.zeros(2, int), jnp.arange(2)))
            each = jax.tree.map(lambda x: jnp.stack([x, x], axis=1), combinations(actions.space))  # for both states
            return jax.vmap(policy.log_prob, out_axes=-1)(each)

        theta = jnp.asarray(actions.theta)
        exact = oracle.exact_gradient(mdp, log_policy, theta)
        behaviour = log_policy(0.5 * theta)
        for estimator, sampling in (
            (reinforce(baseline="leave_one_out").algorithm.estimator, oracle.Sampling(batch_size=2)),
            (ALGORITHMS["per_decision_is"](baseline="none").algorithm.estimator, oracle.Sampling(behaviour=behaviour)),
        ):
            found = oracle.moments(mdp, estimator, log_policy, theta, sampling)
            np.testing.assert_allclose(found.mean, np.ravel(exact), atol=1e-12)
            assert np.trace(found.covariance) > 0.01


# --- masks


def masked_environment():
    """A nested action; masks of three forms, at several depths; reward for what is allowed, a penalty for the rest."""
    space = {"go": Discrete(3), "with": (MultiDiscrete((2, 3)), MultiBinary((2,))), "push": Box((0.0,), (INF,), (1,))}
    observation = {
        "seen": jax.ShapeDtypeStruct((2,), jnp.float32),
        "action_mask": {"go": jax.ShapeDtypeStruct((3,), bool), "with": [jax.ShapeDtypeStruct((2, 3), jnp.int8), None]},
        "inner": {"with": [None, {"action_mask": jax.ShapeDtypeStruct((4,), bool)}]},
    }
    return space, observation


@pytest.mark.costly
def test_each_mask_finds_its_part_and_forbidden_choices_are_never_taken():
    space, observation = masked_environment()
    environment = probes.bandit()._replace(action_space=space, observation=observation)
    assert [len(m) for m in find_masks(environment).of_parts] == [1, 0, 1, 1]  # go, push, with[0], with[1]
    seen = {
        "seen": jnp.zeros(2),
        "action_mask": {"go": jnp.array([1, 0, 1]), "with": [jnp.array([[0, 1, 1], [1, 1, 0]]), None]},
        "inner": {"with": [None, {"action_mask": jnp.array([1, 0, 1, 1])}]},
    }
    seen = jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), seen, observation)
    agent = make_agent(environment, hidden=(4,), critic="state")
    random = uniform_policy(environment)(seen)

    @jax.jit
    def drawing():
        policy = agent.policy(agent.init(KEY), seen)
        drawn = policy.at(policy.noise(KEY, (2000,)))
        pushed = policy.to_environment(drawn)["push"]
        return drawn, pushed, jax.vmap(policy.log_prob)(drawn), policy.entropy(), random.at(random.noise(KEY, (2000,)))

    drawn, pushed, log_prob, entropy, drawn_at_random = drawing()
    assert set(np.unique(drawn["go"])) == {0, 2}
    numbers = np.asarray(drawn["with"][0])
    assert set(numbers[:, 0]) == {1} and set(numbers[:, 1]) == {0, 1}
    bits = np.asarray(drawn["with"][1])
    assert set(bits[:, 0]) == {0} and set(bits[:, 1]) == {0, 1}
    assert (np.asarray(pushed) > 0).all()
    assert np.isfinite(log_prob).all() and np.isfinite(entropy)
    np.testing.assert_allclose(np.bincount(drawn_at_random["go"]) / 2000, [0.5, 0, 0.5], atol=0.05)


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([[[1, 0, 0], [1, 1, 0]]], [1, 0, 1, 1, 0]),  # [k, largest n]: the third choice of the first is none
        ([[1, 0, 1, 1, 0]], [1, 0, 1, 1, 0]),  # flat
        ([[1, 0], [1, 1, 0]], [1, 0, 1, 1, 0]),  # one array for each number
    ],
)
def test_masks_of_several_numbers_in_every_form(leaves, expected):
    leaves = [jnp.asarray(x) for x in leaves]
    np.testing.assert_array_equal(flat_mask(MultiDiscrete((2, 3)), leaves, 0), expected)
    batch = [jnp.broadcast_to(x, (4, 5, *x.shape)) for x in leaves]
    np.testing.assert_array_equal(flat_mask(MultiDiscrete((2, 3)), batch, 2), np.broadcast_to(expected, (4, 5, 5)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_where_a_mask_allows_nothing_every_choice_that_exists_is_as_likely_as_any_other(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        logits = jnp.array([3.0, -1.0, 0.0, 1.0, 2.0, 5.0], dtype)
        policy = distribution(MultiDiscrete((2, 4)), "auto", logits, None, [jnp.array([0, 0, 1, 1, 0, 1])])
        drawn = np.asarray(policy.at(policy.noise(KEY, (4000,))))
        np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=4) / 4000, [0.5, 0.5, 0, 0], atol=0.04)
        assert set(np.unique(drawn[:, 1])) == {0, 1, 3}
        np.testing.assert_allclose(np.exp(policy.log_probs[0]), [0.5, 0.5, 0, 0], atol=1e-6)
        one = distribution(Discrete(3), "auto", logits[:3], None, [jnp.zeros(3)])
        drawn = np.asarray(one.at(one.noise(KEY, (4000,))))
        np.testing.assert_allclose(np.bincount(drawn) / 4000, [1 / 3] * 3, atol=0.04)


class Record:
    """A record whose parts jax knows by number alone."""

    def __init__(self, x, action_mask):
        self.x, self.action_mask = x, action_mask


jax.tree_util.register_pytree_node(Record, lambda r: ((r.x, r.action_mask), None), lambda _, parts: Record(*parts))


def test_a_mask_that_jax_has_no_name_for_is_refused_and_two_of_one_part_too():
    seen, mask = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), bool)
    environment = probes.bandit()._replace(observation={"inner": Record(seen, mask)})
    with pytest.raises(SettingError, match="has observations of type Record whose fields, with action_mask, have no"):
        make_agent(environment)
    twice = {"x": {"action_mask": mask, "seen": seen}, "action_mask": mask}
    with pytest.raises(SettingError, match="has an action mask .*, .*; needs one of shape"):
        make_agent(probes.bandit()._replace(observation=twice, action_space=MultiDiscrete((2, 2))))


def test_spaces_of_arrays_lists_and_numbers_are_those_of_tuples():
    assert MultiDiscrete(np.array([2, 3])) == MultiDiscrete([2, 3]) == MultiDiscrete((2, 3))
    assert Box(np.zeros(2), [1.0, 2.0], 2) == Box(0.0, (1.0, 2.0), [2]) == Box((0.0, 0.0), (1.0, 2.0), (2,))
    assert hash(MultiBinary(3)) == hash(MultiBinary((3,)))
    for space in (MultiDiscrete(np.array([2, 3])), Box(np.zeros(2), 1.0, 2)):  # as static parts of compiled programs
        twice = [probes.bandit()._replace(action_space=space, reset=probes.bandit().reset) for _ in range(2)]
        assert twice[0] == twice[0]._replace(action_space=type(space)(*space))


@pytest.mark.parametrize("policy", ["gaussian", "squashed"])
def test_a_box_as_large_as_float32_is_one(policy):
    largest = float(np.finfo(np.float32).max)
    box = Box(-largest, largest, 1)
    d = distribution(box, policy, jnp.array([0.3]), jnp.zeros(1), [None])
    sent = d.to_environment(jnp.linspace(-3, 3, 7)[:, None])
    assert np.isfinite(sent).all() and (np.abs(sent) <= largest).all() and (np.diff(sent[:, 0]) >= 0).all()
    random = uniform_policy(probes.bandit()._replace(action_space=box))(jnp.zeros(1))
    assert np.isfinite(random.at(random.noise(KEY, (100,)))).all()


# --- learning


def named(space, reward, mask=None):
    """One step; the observation shows a sign, `reward(sign, action)` is earned."""
    shapes = {"seen": jax.ShapeDtypeStruct((1,), jnp.float32)}
    if mask is not None:
        shapes["action_mask"] = jax.tree.map(lambda m: jax.ShapeDtypeStruct(np.shape(m), jnp.float32), mask)

    def reset(key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)[None]
        observation = {"seen": sign}
        if mask is not None:
            observation["action_mask"] = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), mask)
        return observation, observation

    def step(key, state, action):
        return state, state, reward(state["seen"][0], action), jnp.bool_(True), jnp.bool_(False)

    return Environment("named", reset, step, shapes, None, space, 1)


def near(x, wanted):
    return -jnp.sum((x - wanted) ** 2)


EVERYTHING = {
    "choice": Discrete(2),
    "numbers": MultiDiscrete((2, 3)),
    "free": Box((-INF,), (INF,), (1,)),
    "above": Box((1.0,), (INF,), (1,)),
}
PROBES = {  # what can be earned at most is 0
    "several numbers": named(MultiDiscrete((3, 2)), lambda s, a: -jnp.sum(jnp.abs(a - jnp.where(s > 0, 1.0, 0.0)))),
    "bits": named(MultiBinary((2,)), lambda s, a: -jnp.sum(jnp.abs(a - jnp.array([1.0, 0.0]))) * 1.0),
    "no bounds": named(Box((-INF,), (INF,), (1,)), lambda s, a: near(a, 2.0 * s)),
    "one bound": named(Box((1.0,), (INF,), (1,)), lambda s, a: near(a, 2.0 + 0.5 * s)),
    "all at once, masked": named(
        EVERYTHING,
        lambda s, a: (
            jnp.float32(a["choice"] == (s > 0))
            - 1.0
            - jnp.sum(jnp.abs(a["numbers"] - jnp.array([1.0, 2.0])))
            - 5.0 * (a["numbers"][1] == 0)
            + near(a["free"], s)
            + near(a["above"], 2.0)
        ),
        mask={"numbers": np.array([[1, 1, 0], [0, 1, 1]])},
    ),
}  # fmt: skip


BY_DEFAULT = {("bits", "reinforce"), ("all at once, masked", "reinforce"), ("all at once, masked", "trpo")}
"""Every kind of part, with scores and with Fisher matrices; test_updates.py has PPO and V-trace with several parts."""
LEARNERS = [
    pytest.param(name, method, marks=() if (name, method) in BY_DEFAULT else pytest.mark.slow)
    for name in PROBES
    for method in ("reinforce", "ppo", "trpo", "vtrace")
]


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "method"), LEARNERS)
def test_every_method_learns_every_kind_of_action(name, method):
    rate = {} if method == "trpo" else {"learning_rate": {"reinforce": 0.05, "ppo": 0.01, "vtrace": 0.03}[method]}
    recipe = ALGORITHMS[method](**rate)
    environment = PROBES[name]
    steps = {} if method == "reinforce" else {"num_steps": 4}
    agent = make_agent(environment, hidden=(16,), critic=recipe.config.critic)
    trainer = make_trainer(environment, agent, replace(recipe.config, num_envs=64, **steps))
    state, metrics = jax.jit(partial(train, trainer, num_updates=120))(recipe.algorithm, KEY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics["entropy"])))
    earned = evaluate(environment, agent, state.params, jax.random.key(1), greedy=True).mean()
    assert earned > -0.2, earned


def test_actions_that_do_not_fit_the_space_are_refused_where_they_enter():
    environment = PROBES["all at once, masked"]
    state = base.reset(environment, KEY)[1]
    with pytest.raises(SettingError, match="gets an action .*; its action space is"):
        base.step(environment, KEY, state, {"choice": 0})
    action = {"choice": 0, "numbers": jnp.zeros(3), "free": jnp.zeros(1), "above": jnp.zeros(1)}
    with pytest.raises(SettingError, match=r"gets an action\['numbers'\] .*\[3\]; its MultiDiscrete has shape \(2,\)"):
        base.step(environment, KEY, state, action)
