"""Certificates: of what is known they say what is known, and every mistake shows in the entry that is its own."""

import io
import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
from jax.tree_util import Partial
from losses import FIXED, GROUPED, LIMITED, SHORT, SMALL, VARIED

import pgjax
from pgjax import ALGORITHMS, FORMS, SettingError, baselined, baselines, certify, oracle, product, score, total_return
from pgjax.estimators.groups import group_standardised
from pgjax.oracle.certificates import default_problems, describe
from pgjax.oracle.certificates.batches import batch_probability, enumerate_batches
from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.entries import asymmetry, clipping, make_row, order_of_bias
from pgjax.oracle.certificates.evaluation import estimates
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient
from pgjax.testing import assert_padding_ignored

SAME = {"storm", "trpo"}  # per_decision_is and npg: what they do beside is no part of the loss
ESTIMATORS = {name: make().algorithm.estimator for name, make in ALGORITHMS.items() if name not in {*FORMS, *SAME}}
ESTIMATORS |= {form: ALGORITHMS[form](baseline="none").algorithm.estimator for form in FORMS}
ESTIMATORS |= {
    f"total_return, {name}": product(baselined(total_return, getattr(baselines, name)), score)
    for name in ("same_batch_mean", "state_value")
}
ESTIMATORS |= {
    "group_standardised": product(group_standardised, score),
    "standardised": product(baselines.standardised(pgjax.reward_to_go), score),
    "action_advantage": product(pgjax.action_advantage, score),
}
KINDS = (  # of credits and surrogates; the moments of every method are compared in test_exact_methods.py
    *("reinforce", "prefix_is", "dice", "trajectory_is", "weighted_per_decision_is", "doubly_robust", "a2c", "vtrace"),
    *("ppo", "gspo", "grpo", "reinforce_pp", "vmpo", "delightful", "standardised", "action_advantage"),
)


@pytest.mark.few(6)
@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in ESTIMATORS]
)
def test_estimators_of_the_library_have_the_moments_that_the_oracle_finds(name, distance=0.4):
    (case,) = make_cases(ESTIMATORS[name], SHORT, pad_to="horizon")
    found = estimates(case, SHORT.logits, case.at(distance))
    with jax.enable_x64(True):
        sampling = oracle.Sampling(
            jnp.asarray(log_softmax(case.at(distance))), jnp.asarray(SHORT.value), jnp.asarray(SHORT.action_value), 2
        )
        theta = jnp.asarray(SHORT.logits)
        expected = jax.device_get(oracle.moments(SHORT.mdp, ESTIMATORS[name], jax.nn.log_softmax, theta, sampling))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-10)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-10)
    row = make_row(case, found, distance, OBJECTIVES[0])
    np.testing.assert_allclose(row.variance, expected.variance, atol=1e-10)
    with jax.enable_x64(True):
        exact = np.ravel(oracle.exact_gradient(SHORT.mdp, jax.nn.log_softmax, theta))
    np.testing.assert_allclose(
        row.mean_squared_error, expected.variance + np.sum((expected.mean - exact) ** 2), atol=1e-10
    )


@pytest.mark.parametrize("discount", ["discounted", "undiscounted"])
@pytest.mark.parametrize("where", [FIXED, VARIED, LIMITED, GROUPED], ids=lambda p: p.name)
def test_gradients_of_objectives_are_differences_of_what_plain_recursion_finds(where, discount):
    mdp = (
        where.mdp
        if discount == "discounted"
        else oracle.make_mdp(where.mdp.initial, where.mdp.transition, where.mdp.reward, where.mdp.horizon)
    )
    rollouts = enumerate_batches(where, ordered=False).rollouts
    found = objective_gradient(where, rollouts, where.logits, Objective(discount, "ends"))
    np.testing.assert_allclose(found, reference.gradient(mdp, where.logits), atol=1e-8)


def test_a_value_after_a_time_limit_is_a_reward_of_the_last_step():
    """Against differences of E[R], R with γ^k V(final state) added, by a walk over the tables."""
    mdp, gamma = LIMITED.mdp, LIMITED.mdp.discount

    def expected(logits):
        pi, total = reference.softmax(logits), 0.0
        walks = [(p, s, 0, 0.0) for s, p in enumerate(mdp.initial)]
        while walks:
            chance, s, t, earned = walks.pop()
            if t == mdp.horizon:
                total += chance * (earned + gamma**t * LIMITED.value[t, s])
                continue
            for a in range(2):
                now, p = earned + gamma**t * mdp.reward[s, a], chance * pi[s, a]
                total += p * (1 - mdp.transition[s, a].sum()) * now
                walks += [(p * q, after, t + 1, now) for after, q in enumerate(mdp.transition[s, a]) if q]
        return total

    steps = 1e-6 * np.eye(4).reshape(4, 2, 2)
    differences = [(expected(LIMITED.logits + e) - expected(LIMITED.logits - e)) / 2e-6 for e in steps]
    rollouts = enumerate_batches(LIMITED, ordered=False).rollouts
    found = objective_gradient(LIMITED, rollouts, LIMITED.logits, Objective("discounted", "goes on"))
    np.testing.assert_allclose(found, differences, atol=1e-8)


@pytest.mark.parametrize("where", [VARIED, LIMITED, GROUPED], ids=lambda p: p.name)
def test_unordered_batches_stand_for_all_orders(where):
    (case,) = make_cases(losses.clipped, where)
    every = case._replace(batches=enumerate_batches(where, ordered=True))
    assert len(case.batches.members) < len(every.batches.members) == case.batches.orderings.sum()
    few, all_ = (estimates(c, where.logits, c.at(0.4)) for c in (case, every))
    np.testing.assert_allclose([few.probability.sum(), all_.probability.sum()], 1.0, atol=1e-12)
    np.testing.assert_allclose(few.mean, all_.mean, atol=1e-12)
    np.testing.assert_allclose(few.covariance, all_.covariance, atol=1e-12)


def test_members_of_a_group_share_their_start_and_trajectories_their_probability():
    batches = enumerate_batches(GROUPED, ordered=True)
    starts = batches.rollouts.state[0][batches.members]
    assert (starts[:, 0] == starts[:, 1]).all() and (starts[:, 2] == starts[:, 3]).all()
    assert (starts[:, 0] != starts[:, 2]).any()
    chance = batch_probability(GROUPED, batches, log_softmax(GROUPED.logits))
    np.testing.assert_allclose(np.bincount(starts[:, 0], chance), GROUPED.mdp.initial, atol=1e-12)


def test_a_loss_that_looks_at_the_order_is_given_every_order():
    def ordered(log_prob, episode_return, mask):
        return -jnp.sum(log_prob[:, 0] * mask[:, 0] * (episode_return[0] - episode_return[1]))

    certificate = certify(ordered, problems=VARIED)
    assert not certificate.problems[0].orders_counted and certificate.unbiased
    assert {i.name: i.verdict for i in certificate.invariances}["batch permuted"] == "unchanged in the mean"


@pytest.fixture(scope="module")
def right():
    return summary(certify(losses.trajectory_is, problems=SMALL))


def summary(certificate):
    """What a mistake may change, by entry."""
    on_policy = {r.problem: r for r in certificate.on_policy}
    return {
        "scale": {k: round(r.scale, 9) for k, r in on_policy.items()},
        "cosine": {k: round(r.cosine, 9) for k, r in on_policy.items()},
        "order": {o.problem: o.order for o in certificate.orders},
        "gradient": {a.problem: ((a.following or 0) < 1e-6, (a.fixed or 0) < 1e-6) for a in certificate.asymmetries},
        **{i.name: i.verdict for i in certificate.invariances},
    }


def test_the_right_loss(right):
    assert right == {
        "scale": {"fixed": 1.0, "varied": 1.0},
        "cosine": {"fixed": 1.0, "varied": 1.0},
        "order": {"fixed": None, "varied": None},
        "gradient": {"fixed": (True, True), "varied": (True, True)},
        "reward shifted, on-policy": "unchanged in the mean",
        "reward shifted": "unchanged in the mean",
        "reward scaled": "linear",
        "batch permuted": "unchanged",
        "padding gradient removed": "unchanged",
        "padding overwritten": "unchanged",
        "padding NaN": "changed",
        "trajectories repeated": "unchanged",
        "rewards of another trajectory changed": "unchanged",
    }


MISTAKES = {  # what each changes, and nothing else
    "flipped": {"scale": {"fixed": -1.0, "varied": -1.0}, "cosine": {"fixed": -1.0, "varied": -1.0}},
    "own_mean": {
        "scale": {"fixed": 0.5, "varied": 0.5},
        "reward shifted, on-policy": "unchanged",
        "reward shifted": "unchanged",
        "rewards of another trajectory changed": "changed",
    },
    "ratios_inverted": {"order": {"fixed": 1, "varied": 1}, "reward shifted": "changed"},
    "mask_dropped": {"scale", "cosine", "order", "gradient", "padding gradient removed"},
    "padded_mean": {"scale", "cosine", "order", "gradient"},
    "own_length": {"scale", "cosine", "order"},  # the gradient of E[R/L]
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_shows_in_its_entry_and_in_no_other(name, right):
    found, expected = summary(certify(getattr(losses, name), problems=SMALL)), MISTAKES[name]
    changed = {k: v for k, v in found.items() if v != right[k]}
    if isinstance(expected, dict):
        assert changed == expected
    else:  # directions that only lengths which vary can turn
        assert set(changed) == expected
        assert changed["cosine"]["varied"] < 1 - 1e-4 and changed["order"] == {"fixed": None, "varied": 0}
        assert found["cosine"]["fixed"] == 1 and found["gradient"]["fixed"] == (True, True)
        assert found["scale"]["fixed"] == (1.0 if name == "mask_dropped" else 0.5)


def test_a_discount_dropped_in_front_is_named_and_is_no_gradient():
    certificate = certify(losses.discount_dropped, problems=SMALL)
    assert certificate.objective.discount == "without γ^t" and not certificate.unbiased
    assert certificate.error < 1e-12 < 0.01 < certificate.errors[OBJECTIVES[0]]
    assert {a.problem: a.following > 1e-3 for a in certificate.asymmetries} == {"fixed": False, "varied": True}
    assert "γ = 1 only" in str(certificate)


@pytest.mark.parametrize(("form", "exact"), [("prefix_is", False), ("suffix_is", False), ("per_decision_is", True)])
def test_forms_with_dropped_ratios_are_gradients_of_nothing_at_fixed_data(form, exact):
    (case,) = make_cases(ALGORITHMS[form](baseline="none").algorithm, VARIED)
    found = asymmetry(case)
    assert found.following < 1e-8  # a Jacobian by differences, of ∇J itself
    assert (found.fixed < 1e-8) == exact


def test_the_jacobian_of_an_exact_mean_is_the_hessian():
    """So the differences are right to what the tolerance says."""
    from pgjax.oracle.certificates import entries

    (case,) = make_cases(losses.trajectory_is, VARIED)
    with jax.enable_x64(True):
        hessian = np.asarray(oracle.exact_hessian(VARIED.mdp, jax.nn.log_softmax, jnp.asarray(VARIED.logits)))
    found = entries._jacobian(lambda x: estimates(case, x, case.at(0.4)).mean, VARIED.logits)
    np.testing.assert_allclose(found, hessian, atol=1e-10)


@pytest.mark.parametrize(("power", "order"), [(1, 1), (2, 2), (3, 3)])
def test_order_of_a_bias_that_is_made_to_have_it(power, order):
    def bent(log_prob, behaviour_log_prob, episode_return, mask):
        distance = jax.lax.stop_gradient(jnp.sum((log_prob - behaviour_log_prob) ** 2 * mask, 0)) ** (power / 2)
        return losses.trajectory_is(log_prob, behaviour_log_prob, episode_return * (1 + distance), mask)

    (case,) = make_cases(bent, VARIED)
    distances = (0.0, 0.002, 0.004, 0.4)
    rows = [make_row(case, estimates(case, VARIED.logits, case.at(d)), d, OBJECTIVES[0]) for d in distances]
    assert order_of_bias(rows).order == order


def test_a_bias_that_begins_with_clipping_is_no_power_of_the_distance():
    certificate = certify(losses.clipped, problems=default_problems()[0])
    assert certificate.unbiased and certificate.orders[0].order == math.inf
    said = {e.name: e.verdict for e in describe.entries(certificate)}
    assert said["off-policy"].startswith("no bias at small distances") and "jump" in str(certificate)


@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_clipping_is_seen_where_the_first_ratio_reaches_it(clip):
    def loss(log_prob, behaviour_log_prob, returns, mask):
        return losses.clipped(log_prob, behaviour_log_prob, returns, mask, clip)

    found = clipping(make_cases(loss, VARIED)[0])
    beyond = [VARIED.logits - (found.distance - step) * VARIED.direction for step in (0.0, 0.025)]
    ratios = [np.exp(log_softmax(VARIED.logits) - log_softmax(x)) for x in beyond]
    outside = [bool(((r > 1 + clip) | (r < 1 - clip)).any()) for r in ratios]
    assert outside == [True, False]  # the first point of the grid beyond it
    assert found.ratios == (ratios[0].min(), ratios[0].max())
    assert clipping(make_cases(losses.ratio_time_major, VARIED)[0]).distance is None


def test_ratios_cut_at_one_are_clipped_from_the_behaviour_policy_on():
    assert clipping(make_cases(ALGORITHMS["vtrace"](), VARIED)[0]).distance == pytest.approx(0.025)


def rows_of(certificate):
    return np.array([[*r.mean, r.variance, r.mean_squared_error, r.loss] for r in certificate.rows])


@pytest.fixture(scope="module")
def time_major():
    return certify(losses.ratio_time_major, problems=[VARIED, GROUPED])


def assert_same(one, other, tolerance):
    np.testing.assert_allclose(rows_of(one), rows_of(other), atol=tolerance)
    assert one.equal[1].on_batches.keys() == other.equal[1].on_batches.keys() == {"reward_to_go × ratio"}
    assert [o.order for o in one.orders] == [o.order for o in other.orders]
    for a, b in zip(one.asymmetries, other.asymmetries, strict=True):
        np.testing.assert_allclose(a[1:], b[1:], atol=1e-8)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "layout", "pad_to"),
    [
        ("ratio_batch_major", "batch_major", "longest"),
        ("ratio_batch_major", "batch_major_left", "longest"),
        ("ratio_flat", "flat", "longest"),
        ("ratio_time_major", "time_major", "horizon"),
    ],
)
def test_every_layout_has_the_same_certificate(time_major, name, layout, pad_to):
    other = certify(getattr(losses, name), problems=[VARIED, GROUPED], layout=layout, pad_to=pad_to)
    assert_same(time_major, other, 1e-10)
    names = {i.name for i in time_major.invariances} - {i.name for i in other.invariances}
    assert names == ({"padding gradient removed", "padding overwritten", "padding NaN"} if layout == "flat" else set())


def test_padding_stands_where_the_layout_says():
    seen = {}

    def loss(log_prob, reward, mask, layout):
        seen.setdefault(layout, []).append((np.array(mask), np.array(reward)))
        return 0.0, -mask

    for layout in ("batch_major", "batch_major_left"):
        make_cases(
            lambda log_prob, reward, mask, layout=layout: loss(log_prob, reward, mask, layout), VARIED, "numpy", layout
        )
    for right, left in zip(*seen.values(), strict=True):
        assert right[0].shape == left[0].shape and right[0].sum(1).max() == right[0].shape[1]  # to the longest
        for n in range(len(right[0])):
            np.testing.assert_array_equal(right[1][n][right[0][n] > 0], left[1][n][left[0][n] > 0])
            assert (np.diff(right[0][n]) <= 0).all() and (np.diff(left[0][n]) >= 0).all()


def test_a_numpy_loss_with_a_gradient_by_hand_has_the_same_certificate(time_major):
    assert_same(time_major, certify(losses.ratio_numpy, problems=[VARIED, GROUPED], framework="numpy"), 1e-10)


def test_a_torch_loss_has_the_same_certificate(time_major):
    pytest.importorskip("torch")
    assert_same(time_major, certify(losses.ratio_torch, problems=[VARIED, GROUPED], framework="torch"), 1e-10)


def test_slopes_in_log_prob_and_in_log_probs_add_up():
    """Against the whole loss as a function of θ, differentiated by JAX."""
    (case,) = make_cases(losses.full_distribution, FIXED)
    found = estimates(case, FIXED.logits, FIXED.logits)
    rollouts, members = case.batches.rollouts, case.batches.members

    def loss(theta, chosen):
        state, action = rollouts.state[:, chosen], rollouts.action[:, chosen]
        table = jax.nn.log_softmax(theta)
        reward = jnp.asarray(FIXED.mdp.reward)[state, action]
        returns = jax.lax.stop_gradient(jnp.flip(jnp.cumsum(jnp.flip(reward, 0), 0), 0))
        values = jnp.asarray(FIXED.action_value)[jnp.arange(2)[:, None], state]
        return losses.full_distribution(table[state], table[state, action], values, returns, jnp.ones(state.shape))

    with jax.enable_x64(True):
        expected = [-np.ravel(jax.grad(loss)(jnp.asarray(FIXED.logits), m)) for m in members]
    np.testing.assert_allclose(found.gradient, expected, atol=1e-12)


def test_two_gradients_by_hand_come_in_the_order_of_the_parameters():
    (one,), (other,) = (
        make_cases(losses.full_distribution, VARIED),
        make_cases(losses.full_distribution_numpy, VARIED, "numpy"),
    )
    found = [estimates(c, VARIED.logits, c.at(0.4)) for c in (one, other)]
    np.testing.assert_allclose(found[0].gradient, found[1].gradient, atol=1e-12)
    np.testing.assert_allclose(found[0].value, found[1].value, atol=1e-12)


def test_names_of_ones_own_and_credits():
    def loss(logp, old, advantages):
        return -jnp.sum(jnp.exp(logp - old) * advantages) / logp.shape[1]

    names = {"logp": "log_prob", "old": "behaviour_log_prob", "advantages": pgjax.gae}
    certificate = certify(loss, problems=[VARIED, LIMITED], names=names)
    assert list(certificate.equal[1].on_batches) == ["gae(λ=0.95) × ratio"]
    assert certificate.ends.verdict == "changed" and certificate.objective.time_limit == "goes on"


@pytest.mark.costly
def test_products_are_named_with_their_factor():
    estimator = product(baselined(total_return, baselines.leave_one_out), pgjax.ratio)

    def half(log_prob, behaviour_log_prob, episode_return):
        advantage = episode_return - episode_return.mean()  # half of what leaving one out of two gives
        return -jnp.mean(jnp.sum(jnp.exp(log_prob - behaviour_log_prob), 0) * advantage)

    found = certify(half, problems=FIXED).equal[1].on_batches
    assert math.isclose(found["baselined(total_return, leave_one_out) × ratio"], 0.5, rel_tol=1e-9)
    assert math.isclose(found["baselined(total_return, same_batch_mean) × ratio"], 1.0, rel_tol=1e-9)
    mixed = certify(half, problems=[FIXED, oracle.problem(FIXED.mdp, name="three", batch_size=3)]).equal[1].on_batches
    assert "baselined(total_return, same_batch_mean) × ratio" in mixed
    assert not [name for name in mixed if "leave_one_out" in name]  # of it this is 1/2 and 2/3
    whole = certify(estimator, problems=FIXED)
    assert math.isclose(whole.equal[1].on_batches["baselined(total_return, leave_one_out) × ratio"], 1.0, rel_tol=1e-9)
    assert whole.equal[0].in_mean == []  # it is ∇J, as that of many is


@pytest.mark.costly
def test_time_limits_are_told_apart_or_not():
    bootstrapped, ended = (
        certify(ALGORITHMS["a2c"](gae_lambda=1.0)._replace(config=config), problems=LIMITED)
        for config in (pgjax.Config(critic="state"), pgjax.Config(critic="state", truncation="terminal"))
    )
    assert bootstrapped.ends.verdict == "changed" and bootstrapped.objective.time_limit == "goes on"
    assert ended.ends.verdict == "unchanged" and ended.objective.time_limit == "ends"
    assert bootstrapped.error < 1e-12 and ended.error < 1e-12

    def never_ends(log_prob, reward, value, next_value, discount, mask):  # forgets `terminated`
        return -jnp.mean(jnp.sum(log_prob * (reward + discount * next_value - value) * mask, 0))

    verdicts = {i.name: i.verdict for i in certify(never_ends, problems=LIMITED).invariances}
    assert verdicts["value after a termination"] == "changed"


def test_standardised_rewards_have_no_unit():
    certificate = certify(product(group_standardised, score), problems=FIXED)
    assert {i.name: i.verdict for i in certificate.invariances}["reward scaled"] == "nearly unchanged"  # of the 1e-8
    assert not certificate.unbiased and "biased" in str(certificate)


def test_zeros_are_said_in_words():
    """k1 as a loss: on-policy its gradient is a score, of mean 0."""

    def k1(log_prob, reference_log_prob, mask):
        return jnp.mean(jnp.sum((log_prob - reference_log_prob) * mask, 0))

    certificate = certify(k1, problems=FIXED)
    row = certificate.on_policy[0]
    assert (row.scale, row.cosine, row.note) == (0.0, None, "the mean gradient is 0")
    assert "the gradient of a batch is noise with mean 0" in str(certificate) and not certificate.unbiased
    flat = oracle.problem(oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 1.0]], horizon=1), name="flat")
    certificate = certify(losses.trajectory_is, problems=flat)
    assert certificate.on_policy[0].note == "∇J is 0, as is the mean gradient" and certificate.unbiased
    assert certificate.on_policy[0].error is None and np.isnan(certificate.error)


def test_a_loss_without_rewards_is_not_said_to_standardise_them():
    def k2(log_prob, reference_log_prob, mask):
        return jnp.mean(jnp.sum((log_prob - reference_log_prob) ** 2 / 2 * mask, 0))

    certificate = certify(k2, problems=FIXED)
    assert not {i.name for i in certificate.invariances} & {"reward shifted", "reward scaled"}
    assert "standardised" not in str(certificate)
    with_credit = certify(
        lambda log_prob, a, mask: -jnp.sum(log_prob * a * mask), problems=FIXED, names={"a": pgjax.gae}
    )
    assert {i.name: i.verdict for i in with_credit.invariances}["reward scaled"] == "linear"


def test_a_loss_that_raises_on_nan_padding_is_certified_and_the_refusal_said():
    def careful(log_prob, mask, reward):
        if not np.isfinite(reward).all():
            raise ValueError("reward has NaN")
        returns = (reward * mask).sum(0)
        return -float((log_prob * mask * returns).sum()), -(mask * returns)

    certificate = certify(careful, problems=VARIED, framework="numpy")
    verdicts = {i.name: i.verdict for i in certificate.invariances}
    assert verdicts["padding NaN"] == "rejected" and verdicts["padding overwritten"] == "unchanged"
    assert "rejected: the loss raises an error" in str(certificate)
    json.dumps(certificate.to_dict(), allow_nan=False)
    assert_padding_ignored(careful, problems=VARIED, framework="numpy")
    with pytest.raises(AssertionError, match="nan on padding makes the loss raise an error on 'varied'"):
        assert_padding_ignored(careful, problems=VARIED, framework="numpy", nan=True)


def test_the_mode_of_jax_is_left_alone():
    assert not jax.config.jax_enable_x64  # tests run in float32 where they do not ask
    certify(losses.trajectory_is, problems=FIXED)
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32


def test_report_in_every_form(time_major):
    from rich.console import Console

    text = str(time_major)
    assert repr(time_major) == f"<Certificate of {describe.headline(time_major)}>" and len(repr(time_major)) < 200
    assert "reward_to_go × ratio" in text and "bias of order 1" in text and "varied" in text
    written = json.loads(time_major.to_json())
    assert written["rows"][0]["problem"] == "varied" and written["objective"]["discount"] == "without γ^t"
    assert [e[0] for e in written["summary"]][:2] == ["on-policy mean", "compared with"]
    json.dumps(written, allow_nan=False)
    html = time_major._repr_html_()
    assert html.count("<tr>") >= 3 + len(written["summary"]) and "&#x27;" in html  # a quoted name, escaped
    odd = certify(losses.trajectory_is, problems=FIXED._replace(name="<i>"))._repr_html_()
    assert "&lt;i&gt;" in odd and "<i>" not in odd
    console = Console(file=io.StringIO(), width=160)
    console.print(time_major)
    assert "gradient of a function" in console.file.getvalue()
    figure = time_major.plot()
    assert len(figure.axes) == 3 and figure.axes[0].get_legend_handles_labels()[1][:2] == ["varied", "grouped"]


def returns_vector(log_prob, mask):
    return jnp.sum(log_prob * mask, axis=0)


def not_finite(log_prob, episode_return):
    return jnp.mean(log_prob * (episode_return - episode_return.mean()) / episode_return.std())


def in_numpy(log_prob, mask):
    return np.sum(np.asarray(log_prob) * mask)


def by_value(log_prob, reward):
    return jnp.sum(log_prob) if reward.sum() > 0 else -jnp.sum(log_prob)


CALLS = []


def counts_its_calls(log_prob):
    CALLS.append(1)
    return jnp.sum(log_prob) * len(CALLS)


def noisy(log_prob):
    return log_prob.sum(), np.random.default_rng().normal(size=log_prob.shape)


def in_place(log_prob, reward):
    reward -= 1.0
    return float((log_prob * reward).sum()), reward.copy()


def needs_four(log_prob):
    return jnp.sum(log_prob[:, 3]) + jnp.sum(log_prob.reshape(-1, 4))


@pytest.mark.parametrize(
    ("loss", "how", "said"),
    [
        (losses.detached, {}, "does not depend on log π: its gradient is 0 on every batch"),
        (lambda reward: jnp.sum(reward), {}, "takes neither log_prob nor log_probs"),
        (
            lambda log_prob, rewards: 0.0,
            {},
            "takes 'rewards', which is not an array; arrays are log_prob, log_probs, beh",
        ),
        (lambda log_prob, /: 0.0, {}, "takes 'log_prob' by position"),
        (losses.clipped, {"names": {"clipp": "mask"}}, "is for a parameter that clipped does not have"),
        (losses.clipped, {"names": {"mask": "masks"}}, r"names\['mask'\]: 'masks' is not an array"),
        (returns_vector, {}, r"returns an array of shape \(2,\); must return one number"),
        (not_finite, {}, "not finite on .* of .* batches of 'fixed', such as returns"),
        (in_numpy, {}, 'cannot be traced by JAX; use jax.numpy, or pass framework="numpy"'),
        (by_value, {}, "cannot be traced by JAX"),
        (lambda log_prob: log_prob.exp().mean(), {}, r"cannot be traced by JAX; .* or \"torch\""),
        (counts_its_calls, {}, "a different result when called again"),
        (noisy, {"framework": "numpy"}, "a different result when called again"),
        (in_place, {"framework": "numpy"}, "a different result when called again"),
        (lambda log_prob: log_prob.sum(), {"framework": "numpy"}, r"must return \(value, gradient in log_prob\)"),
        (lambda log_prob: (log_prob.sum(), 1.0), {"framework": "numpy"}, r"gradient in log_prob of shape \(\)"),
        (needs_four, {}, r"fails on a batch with log_prob \(.*, 2\)"),
        (losses.clipped, {"framework": "tensorflow"}, "must be one of jax, numpy, torch"),
        (losses.clipped, {"layout": "rows"}, "must be one of time_major, batch_major"),
        (losses.clipped, {"pad_to": "shortest"}, 'must be "longest"'),
        (losses.clipped, {"problems": []}, "is empty"),
        (losses.clipped, {"problems": 3}, "must be an MDP or"),
        (losses.clipped, {"max_batches": 30}, r"batches of 2 out of .* trajectories; at most 30"),
        (product(total_return, score), {"layout": "flat"}, "must be time_major for estimators"),
        (pgjax.reinforce(baseline="optimal"), {}, "is a control variate"),
        (3, {}, "is not callable"),
    ],
)
def test_bad_input_is_refused_in_one_line(loss, how, said):
    with pytest.raises(SettingError, match=said) as error:
        certify(loss, **{"problems": SMALL} | how)
    assert "\n" not in str(error.value)


def test_bad_problems():
    nothing = oracle.make_mdp([1.0], np.zeros((1, 2, 1)), np.zeros((1, 2)), horizon=1)
    with pytest.raises(SettingError, match="have no reward: every reachable reward is 0"):
        certify(losses.trajectory_is, problems=nothing)
    endless = oracle.make_mdp([1.0], np.ones((1, 2, 1)), [[1.0, 0.0]], horizon=50)
    with pytest.raises(SettingError, match=r"problem 1.*has 1\.1e\+15 trajectories; at most 20000 batches"):
        certify(losses.clipped, problems=endless)
    with pytest.raises(SettingError, match="multiple of group_size"):
        oracle.problem(FIXED.mdp, batch_size=3, group_size=2)
    with pytest.raises(SettingError, match=r"value: \(3, 3\) is not the shape"):
        oracle.problem(FIXED.mdp, value=np.zeros((3, 3)))
    leave_one_out = product(baselined(total_return, baselines.leave_one_out), score)
    with pytest.raises(SettingError, match="needs .* N >= 2 trajectories"):
        certify(leave_one_out, problems=oracle.problem(FIXED.mdp, batch_size=1))


def test_on_padding_policies_are_those_of_state_0_and_the_rest_is_0():
    seen = []

    def loss(log_prob, log_probs, behaviour_log_prob, reward, value, mask):
        seen.append((mask, log_prob, log_probs, behaviour_log_prob, reward, value))
        return 0.0, -mask, np.zeros_like(log_probs)

    (case,) = make_cases(loss, VARIED, "numpy")
    seen.clear()
    estimates(case, VARIED.logits, case.at(0.4))
    target, sampler = log_softmax(VARIED.logits), log_softmax(case.at(0.4))
    assert any((mask == 0).any() for mask, *_ in seen)
    for mask, *arrays in seen:
        there = mask == 0
        for array, expected in zip(arrays, (target[0, 0], target[0], sampler[0, 0], 0.0, 0.0), strict=True):
            np.testing.assert_array_equal(array[there], np.broadcast_to(expected, array[there].shape))


def test_every_default_problem_with_several_steps_shows_dropped_ratios():
    """Tables by chance may hide a bias: of one problem it was found to cancel."""
    for where in oracle.default_problems()[1:]:
        np.testing.assert_allclose(np.linalg.norm(where.direction), 1.0)  # so that δ is ‖θ − θ̄‖
        with jax.enable_x64(True):
            behaviour = jnp.asarray(log_softmax(where.logits - 0.4 * where.direction))
            theta = jnp.asarray(where.logits)
            means = oracle.mean_gradients(where.mdp, jax.nn.log_softmax, theta, behaviour)
            for form in (means.prefix, means.suffix, means.first_order):
                assert jnp.linalg.norm(form - means.exact) > 0.01 * jnp.linalg.norm(means.exact), where.name


def credit_loss(log_prob, mask, credit):
    return -jnp.sum(jnp.where(mask > 0, log_prob * credit, 0.0)) / mask.shape[1]


@pytest.mark.costly
def test_problems_of_one_name_keep_their_own_rows():
    def own_mean(log_prob, episode_return):
        return -jnp.mean(jnp.sum(log_prob, 0) * (episode_return - episode_return.mean()))

    bandit = default_problems()[0]
    found = certify(own_mean, problems=[bandit, bandit._replace(batch_size=3), bandit])
    assert [p.name for p in found.problems] == ["bandit", "bandit (2)", "bandit (3)"]
    assert [row.split()[-9] for row in str(found).splitlines()[4:7]] == ["0.5", "0.667", "0.5"]
    assert "(1 − 1/N) · ∇J" in repr(found)


@pytest.mark.parametrize("discount", [0.0, 1e-120, 0.5])
def test_returns_do_not_need_powers_of_the_discount(discount):
    problem = default_problems()[2]
    small = oracle.problem(replace(problem.mdp, discount=discount), problem.logits)
    found = certify(lambda log_prob, mask, returns: credit_loss(log_prob, mask, returns), problems=small)
    assert "unbiased for γ = 1 only" in repr(found)


def test_a_credit_leaves_the_array_of_its_parameters_name_alone():
    def loss(log_prob, mask, reward, other):
        return credit_loss(log_prob, mask, other) + 0.0 * reward.sum()

    named = {"reward": lambda signals: 0.0 * signals.reward + 5.0, "other": "reward"}
    assert certify(loss, problems=default_problems()[0], names=named).unbiased


def test_a_credit_is_read_anew_by_each_certificate():
    decay = {"lambda": 1.0}

    def credit(signals):
        return pgjax.gae(signals, gae_lambda=decay["lambda"])

    problem, named = default_problems()[1], {"credit": credit}
    assert certify(credit_loss, problems=problem, names=named).unbiased
    decay["lambda"] = 0.0
    assert not certify(credit_loss, problems=problem, names=named).unbiased


DICE = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("credit", "said"),
    [
        (lambda s: s.reward * DICE.uniform(), "different result when called again"),
        (lambda s: (1, 2), r"names\['credit'\].*returns a tuple"),
        (lambda s: None, r"names\['credit'\].*returns a NoneType"),
        (lambda s: jnp.ones((7, 5)), r"names\['credit'\].*shape \(7, 5\) for rewards of shape"),
        (lambda s: 1 / 0, r"names\['credit'\].*ZeroDivisionError"),
    ],
)
def test_bad_credits_are_refused_in_one_line(credit, said):
    with pytest.raises(SettingError, match=said):
        certify(credit_loss, problems=default_problems()[1], names={"credit": credit})


def test_names_of_problems_are_no_markup():
    from rich.console import Console

    problem = default_problems()[0]._replace(name="x$_{$ [/b]")
    found = certify(losses.trajectory_is, problems=problem)
    shown = io.StringIO()
    Console(file=shown, width=200).print(found)
    assert "x$_{$ [/b]" in shown.getvalue()
    found.plot().canvas.draw()


def test_a_string_that_is_bound_is_a_part_of_the_function():
    def surrogate(log_ratio, credit, continues, kind, scale):
        return {"once": 1.0, "twice": 2.0}[kind] * scale * jnp.exp(log_ratio) * credit

    for kind, scale in (("once", 0.5), ("twice", 1.0)):
        estimator = product(total_return, Partial(surrogate, kind=kind, scale=0.5))
        algorithm = pgjax.reinforce().algorithm._replace(estimator=estimator)
        assert {"kind", "scale"} & set(pgjax.hyperparameters(algorithm)) == {"scale"}
        assert certify(estimator, problems=default_problems()[0]).scale == pytest.approx((scale, scale))
