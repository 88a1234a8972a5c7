"""A certificate claims what was tested and no more: each test is a loss of which a false claim is easily made."""

import functools
import math
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from losses import FIXED, GROUPED, LIMITED, SHORT, SMALL, VARIED

from pgjax import SettingError, baselined, certify, oracle, product, score, total_return
from pgjax.estimators.baselines import leave_one_out, same_batch_mean
from pgjax.oracle.certificates import describe, entries
from pgjax.oracle.certificates.batches import permutations
from pgjax.oracle.certificates.certificate import make_cases
from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.evaluation import estimates
from pgjax.oracle.certificates.invariances import Invariance, before, invariances, worst
from pgjax.oracle.certificates.layouts import packings
from pgjax.oracle.certificates.library import equal_to, factor_text
from pgjax.oracle.certificates.precision import precision_of
from pgjax.testing import (
    assert_a_gradient,
    assert_padding_ignored,
    assert_same_estimator,
    assert_scale,
    assert_unbiased,
)

ARMS = oracle.problem(oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.3]], horizon=1), name="arms")
FLAT = oracle.problem(oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 1.0]], horizon=1), name="flat")
TWO_STEPS = oracle.problem(oracle.make_mdp([1.0], [[[1.0], [1.0]]], [[1.0, 0.3]], horizon=2), name="two steps")
ALONE = oracle.problem(VARIED.mdp, name="alone", batch_size=1)
JOINED = "own return"


def reinforce(log_prob, episode_return, mask):
    return -jnp.mean(jnp.sum(log_prob * mask, axis=0) * episode_return)


def half(log_prob, episode_return, mask):
    return 0.5 * reinforce(log_prob, episode_return, mask)


def mean_over_cells(log_prob, episode_return, mask):
    return -jnp.mean(log_prob * mask * episode_return)


def batch_mean(log_prob, episode_return, mask):
    return reinforce(log_prob, episode_return - episode_return.mean(), mask)


def group_mean(log_prob, episode_return, mask, group):
    same = group[:, None] == group
    return reinforce(log_prob, episode_return - same @ episode_return / same.sum(1), mask)


def batch_others(log_prob, episode_return, mask, floor=0.0):
    count = episode_return.shape[0]
    return reinforce(log_prob, episode_return - (episode_return.sum() - episode_return) / (count - 1 + floor), mask)


def to_the_old_policy(log_prob, behaviour_log_prob, mask):
    return jnp.mean(jnp.sum((log_prob - behaviour_log_prob) ** 2 / 2 * mask, 0))


def said(certificate):
    return {e.name: e.verdict for e in describe.entries(certificate)}


def details(certificate):
    return {e.name: e.detail for e in describe.entries(certificate)}


def verdicts(loss, problems, **how):
    cases = make_cases(loss, problems, **how)
    found = invariances([before(c, 0.0) for c in cases], [before(c, 0.4) for c in cases])
    return {x.name: x for x in found}


# --- the mean ---------------------------------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("loss", "where", "claimed"),
    [
        (half, VARIED, False),  # 1 − 1/N long, and nothing is shared
        (mean_over_cells, TWO_STEPS, False),  # so is 1/T
        (batch_mean, [VARIED, GROUPED], True),  # N = 4 where groups have 2
        (group_mean, [VARIED, GROUPED], True),
    ],
)
def test_what_contains_what_it_judges_is_known_by_its_batches_and_not_by_its_scale(loss, where, claimed):
    certificate = certify(loss, problems=where)
    assert (JOINED in said(certificate)["on-policy mean"]) == claimed
    sizes = {p.name: (p.batch_size, p.group_size) for p in (where if isinstance(where, list) else [where])}
    for row in certificate.on_policy:
        count, group = sizes[row.problem]
        shared = group if loss is group_mean and group > 1 else count
        assert row.scale == pytest.approx(1 - 1 / shared if claimed else 0.5)
    if not claimed:
        assert said(certificate)["on-policy mean"] == "0.5 · ∇J"


@pytest.mark.slow
def test_on_groups_alone_a_baseline_of_the_whole_batch_is_known_too():
    for loss, names in ((batch_mean, ["same_batch_mean"]), (batch_others, ["leave_one_out"]), (half, [])):
        (case,) = make_cases(loss, GROUPED)
        found = equal_to([(case, estimates(case, GROUPED.logits, GROUPED.logits))], 0.0, exact=True)
        whole = [f"baselined(total_return, {x}) × score" for x in names]
        assert found.otherwise == {name: f"{name}, computed over the whole batch" for name in whole}
    assert found.on_batches["total_return × score"] == pytest.approx(0.5)


@pytest.mark.costly
def test_where_there_is_no_gradient_nothing_was_tested():
    assert said(certify(reinforce, problems=FLAT))["on-policy mean"].startswith(
        "not tested: ∇J and the mean gradient are 0"
    )
    mixed = said(certify(reinforce, problems=[FLAT, ARMS]))["on-policy mean"]
    assert mixed == "unbiased: equals ∇J on every problem where it is not 0"
    with pytest.raises(AssertionError, match="not tested: ∇J is 0 on every problem"):
        assert_unbiased(reinforce, problems=FLAT)

    def pushes(log_prob, action):
        return jnp.mean(jnp.sum(log_prob * (action - 0.2), 0))

    assert said(certify(pushes, problems=FLAT))["on-policy mean"].startswith("biased: ∇J is 0 on 'flat', but the mean")
    with pytest.raises(AssertionError, match="relative error of"):
        assert_unbiased(pushes, problems=FLAT)


def test_noise_is_not_said_of_a_loss_without_any():
    mean = said(certify(to_the_old_policy, problems=ARMS))["on-policy mean"]
    assert mean == "0 on every batch: the loss has no gradient on-policy"
    noisy = said(certify(lambda log_prob, mask: jnp.sum(log_prob * mask), problems=ARMS))["on-policy mean"]
    assert "is noise with mean 0" in noisy


def test_a_small_angle_is_printed_as_one():
    def turned(log_prob, episode_return, mask):
        return reinforce(log_prob, episode_return, mask) - 1e-4 * jnp.sum(log_prob[0] ** 2 * mask[0])

    certificate = certify(turned, problems=FIXED)
    (row,) = certificate.on_policy
    mean, gradient = np.array(row.mean), np.array(row.gradient)
    unit = gradient / np.linalg.norm(gradient)
    across = np.linalg.norm(mean - (mean @ unit) * unit)
    assert row.angle == pytest.approx(math.degrees(math.atan2(across, mean @ unit)), rel=1e-6)
    assert 0 < row.angle < 0.1 and 1 - row.cosine < 1e-5  # which three digits would call 1
    assert f"angle to ∇J up to {row.angle:.3g}°" in said(certificate)["on-policy mean"]
    assert said(certificate)["compared with"].startswith("no objective matches; closest in direction: ∇J")
    assert not said(certify(half, problems=FIXED))["compared with"].startswith("no objective")


def test_two_numbers_of_a_range_differ_in_print():
    assert describe._range(1.0, 1.0 + 1e-7) == "1 to 1.0000001"
    assert describe._range(1.0, 1.0 + 1e-7, 1e-6) == "1"


# --- precision --------------------------------------------------------------------------------------------------------


def single(log_prob, episode_return, mask):
    return reinforce(*(x.astype(jnp.float32) for x in (log_prob, episode_return, mask)))


def single_in_double(log_prob, episode_return, mask):
    return single(log_prob, episode_return, mask).astype(jnp.float64)


def single_numpy(log_prob, episode_return, mask):
    slope = (-episode_return * mask / mask.shape[1]).astype(np.float32)
    return (log_prob * slope).sum(), slope


def single_torch(log_prob, episode_return, mask):
    return -((log_prob.float() * mask.float()).sum(0) * episode_return.float()).mean()


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("loss", "framework"),
    [(single, "jax"), (single_in_double, "jax"), (single_numpy, "numpy"), (single_torch, "torch")],
)
def test_float32_is_noticed_and_compared_as_such(loss, framework):
    if framework == "torch":
        pytest.importorskip("torch")
    certificate = certify(loss, problems=SMALL, framework=framework)
    mean = said(certificate)["on-policy mean"]
    assert (
        certificate.unbiased
        and mean.startswith("unbiased: equals ∇J on every problem, to ")
        and mean.endswith("(float32)")
    )
    assert 0 < certificate.error < 1e-6 and "float32" in str(certificate)
    assert said(certificate)["gradient of a function"].startswith("data of π_θ: yes; data of a policy at")
    assert said(certificate)["equal to, on-policy"] == "total_return × score"
    assert said(certificate)["reward shifted, on-policy"] == "unchanged in the mean"
    assert certificate.orders[0].order == 1
    assert_unbiased(loss, problems=SMALL, framework=framework)
    assert_same_estimator(loss, reinforce, problems=SMALL, framework=framework)
    with pytest.raises(AssertionError, match="relative error of"):
        assert_scale(loss, 1 + 1e-4, problems=SMALL, framework=framework)


@pytest.mark.costly
@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_the_unit_of_a_loss_does_not_matter(size):
    def scaled(log_prob, episode_return, mask):
        return size * reinforce(log_prob, episode_return, mask)

    one, other = (certify(f, problems=SMALL) for f in (reinforce, scaled))
    assert said(other)["on-policy mean"] == f"{size:.3g} · ∇J"
    for name in ("gradient of a function", "clipping", "reward scaled", "trajectories repeated"):
        assert said(one)[name] == said(other)[name], name
    order = "bias of order 1 in the distance"  # beyond the scale, which is 1 for one of them
    assert said(one)["off-policy"] == f"{order}, none on-policy"
    assert said(other)["off-policy"] == f"{order}, beyond the on-policy scale"
    assert_scale(scaled, size, problems=SMALL)
    with pytest.raises(AssertionError, match="relative error of 0.5 against"):
        assert_scale(scaled, 2 * size, problems=SMALL)
    with pytest.raises(AssertionError):
        assert_scale(scaled, 0.0, problems=SMALL)


def test_a_small_number_under_a_divisor_makes_it_nearly():
    floored = functools.partial(batch_others, floor=1e-8)
    cases = make_cases(floored, [ARMS, FIXED])
    for found in map(entries.asymmetry, cases):  # at fixed data of one step the Jacobian is of the order of the floor
        assert (found.following or 0.0) < 1e-6 and (found.fixed or 0.0) < 1e-6
    found = equal_to([(c, estimates(c, c.problem.logits, c.problem.logits)) for c in cases], 0.0, exact=True)
    assert "nearly baselined(total_return, leave_one_out) × score" in found.on_batches
    assert all(name.startswith("nearly ") for name in found.on_batches)
    assert verdicts(floored, [ARMS])["reward shifted"].verdict == "nearly unchanged"

    def nearly(log_prob, episode_return, mask):
        return reinforce(log_prob, episode_return, mask) / (1 + 1e-8)

    certificate = certify(nearly, problems=FIXED)
    assert (
        said(certificate)["on-policy mean"]
        == "nearly unbiased: equals ∇J on every problem, to a relative error of 1e-08"
    )
    assert said(certificate)["equal to, on-policy"] == "nearly total_return × score" and not certificate.unbiased


# --- gradient of a function, and clipping -----------------------------------------------------------------------------


def clipped_at(clip):
    return lambda log_prob, behaviour_log_prob, returns, mask: losses.clipped(
        log_prob, behaviour_log_prob, returns, mask, clip
    )


def test_no_ratio_of_the_default_problems_is_near_a_usual_clip_where_a_jacobian_is_taken():
    edges = np.array([1 + sign * clip for clip in (0.1, 0.2, 0.28, 0.3) for sign in (-1, 1)])
    for where in oracle.default_problems():
        moved = where.logits - entries.JACOBIAN_DISTANCE * where.direction
        ratios = np.exp(log_softmax(where.logits) - log_softmax(moved))
        assert np.abs(ratios.ravel()[:, None] - edges).min() > 4 * entries.STEP * ratios.max() / 2, where.name
    (case,) = make_cases(losses.clipped, oracle.default_problems()[0])
    assert entries.asymmetry(case).fixed < 1e-6


@pytest.mark.parametrize("aside", [-0.9, -0.3, 0.0, 0.3, 0.66, 0.9, 1.5])
def test_a_kink_between_the_points_of_a_difference_is_not_decided(aside):
    """The clip at a ratio that is met `aside` steps away; without a stop-gradient every ḡ at fixed data is one."""
    moved = FIXED.logits - entries.JACOBIAN_DISTANCE * FIXED.direction
    shifted = FIXED.logits + aside * entries.STEP * np.array([[1.0, 0.0], [0.0, 0.0]])
    ratio = float(np.exp(log_softmax(shifted) - log_softmax(moved))[0].max())
    (case,) = make_cases(clipped_at(ratio - 1), FIXED)
    assert math.isnan(entries.asymmetry(case).fixed)
    assert (entries.asymmetry(case).following or 0.0) < 1e-6


def test_what_is_not_decided_is_said():
    moved = FIXED.logits - entries.JACOBIAN_DISTANCE * FIXED.direction
    loss = clipped_at(float(np.exp(log_softmax(FIXED.logits) - log_softmax(moved))[0].max()) - 1)
    certificate = certify(loss, problems=FIXED)
    assert "at distance 0.35: undecided (a kink on 'fixed')" in said(certificate)["gradient of a function"]
    with pytest.raises(AssertionError, match="undecided: ḡ has a kink on 'fixed'"):
        assert_a_gradient(loss, data="fixed", problems=FIXED)


def to_the_old_policy_k3(log_prob, behaviour_log_prob, mask):
    x = log_prob - behaviour_log_prob
    return jnp.mean(jnp.sum((jnp.exp(-x) - 1 + x) * mask, 0))


def fourth_power(log_prob, behaviour_log_prob, mask):
    return jnp.sum((log_prob - behaviour_log_prob) ** 4 * mask)


def steep(log_prob, behaviour_log_prob, mask, episode_return):
    return -jnp.mean(jnp.exp(6 * jnp.sum((log_prob - behaviour_log_prob) * mask, 0)) * episode_return)


@pytest.mark.costly
@pytest.mark.parametrize("loss", [to_the_old_policy, to_the_old_policy_k3, fourth_power, steep])
def test_a_smooth_loss_is_not_clipped(loss):
    assert entries.clipping(make_cases(loss, SHORT)[0]).distance is None


def test_clipping_beside_a_smooth_term_is_seen():
    def both(log_prob, behaviour_log_prob, returns, mask):
        penalty = to_the_old_policy(log_prob, behaviour_log_prob, mask)
        return losses.clipped(log_prob, behaviour_log_prob, returns, mask) + penalty

    alone, found = (entries.clipping(make_cases(f, VARIED)[0]) for f in (losses.clipped, both))
    assert found.distance == alone.distance is not None
    assert alone.stops and not found.stops


def test_two_losses_without_a_gradient_are_the_same():
    assert_same_estimator(to_the_old_policy, to_the_old_policy, problems=ARMS)
    with pytest.raises(AssertionError, match="differ by 1 of"):
        assert_same_estimator(to_the_old_policy, reinforce, problems=ARMS)


# --- invariances ------------------------------------------------------------------------------------------------------


def entropy_bonus(log_prob, log_probs, episode_return, mask):
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1) * mask
    return reinforce(log_prob, episode_return, mask) - 0.01 * jnp.mean(entropy.sum(0))


def k3_bonus(log_prob, reference_log_prob, episode_return, mask):
    x = log_prob - reference_log_prob
    return reinforce(log_prob, episode_return, mask) + jnp.mean(((jnp.exp(-x) - 1 + x) * mask).sum(0))


def inverse_ratio(log_prob, behaviour_log_prob, episode_return, mask):
    return -jnp.mean(jnp.sum(-jnp.exp(behaviour_log_prob - log_prob) * mask, 0) * episode_return)


@pytest.mark.parametrize("loss", [entropy_bonus, k3_bonus, inverse_ratio, losses.clipped])
def test_a_mask_that_multiplies_is_enough_for_padding_with_legal_log_probabilities(loss):
    found = verdicts(loss, [VARIED])
    assert found["padding overwritten"].verdict == "unchanged" and "padding overflow" not in found
    assert_padding_ignored(loss, problems=VARIED)


def advantage_over_padding(log_prob, returns, value, mask):
    advantage = returns - value
    return -jnp.sum(log_prob * (advantage - advantage.mean()) * mask)


def ratio_over_padding(log_prob, behaviour_log_prob, episode_return, mask):
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.sum(log_prob - behaviour_log_prob, 0)))
    return -jnp.mean(ratio * jnp.sum(log_prob * mask, 0) * episode_return)


def reference_over_padding(log_prob, reference_log_probs, episode_return, mask):
    far = jnp.exp(reference_log_probs)[..., 0].mean()
    return far * reinforce(log_prob, episode_return, mask)


@pytest.mark.parametrize("loss", [advantage_over_padding, ratio_over_padding, reference_over_padding])
def test_what_stands_on_padding_is_seen_in_every_array(loss):
    assert verdicts(loss, [VARIED])["padding overwritten"].verdict == "changed"
    with pytest.raises(AssertionError, match="1000 on padding changes gradients"):
        assert_padding_ignored(loss, problems=VARIED)


def test_an_overflow_on_padding_has_a_line_of_its_own():
    def exponential(log_prob, returns, mask):
        return -jnp.sum(log_prob * jnp.exp(returns) * mask)

    found = verdicts(exponential, [VARIED])
    assert found["padding overwritten"].verdict == "unchanged" and found["padding overflow"].verdict == "not finite"
    with pytest.raises(AssertionError, match="1000 on padding overflows on 'varied'"):
        assert_padding_ignored(exponential, problems=VARIED)


def capped(log_prob, behaviour_log_prob, reward, mask):
    """Linear in small rewards, blind to large ones."""
    total = jnp.clip((reward * mask).sum(0), -4.0, 4.0)
    return -jnp.mean(jnp.exp(((log_prob - behaviour_log_prob) * mask).sum(0)) * total)


def test_the_worst_verdict_is_reported_and_not_the_largest_number():
    large = oracle.problem(oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[10.0, 8.0]], horizon=1), name="large")
    found = verdicts(capped, [large, ARMS])["reward scaled"]
    assert found.verdict == "differs: unchanged on 'large', linear on 'arms'"
    middle = oracle.problem(oracle.make_mdp([1.0], [[[0.0], [0.0]]], [[2.0, 0.3]], horizon=1), name="middle")
    assert verdicts(capped, [middle, ARMS])["reward scaled"].verdict == "changed"


def test_verdicts_are_ranked_before_numbers():
    changed, large = (
        Invariance("x", v, n, n, p) for v, n, p in (("changed", 0.1, "a"), ("nearly linear in the mean", 9.0, "b"))
    )
    assert worst([large, changed]) == worst([changed, large]) == changed
    order = ["linear", "nearly linear", "linear but for 1 %", "linear in the mean", "changed", "not finite", "rejected"]
    each = [Invariance("x", verdict, 10.0 - i, None, verdict) for i, verdict in enumerate(order)]
    assert [worst(each[: i + 1]).verdict for i in range(len(each))] == order


def test_a_loss_for_one_size_of_batch_is_certified():
    def for_two(log_prob, episode_return, mask):
        return -jnp.mean(jnp.sum(log_prob * mask, 0) * episode_return * jnp.ones(2))

    assert verdicts(for_two, [ARMS])["trajectories repeated"].verdict == "rejected"


def mean_and_sum(log_prob, episode_return, mask):
    return reinforce(log_prob, episode_return, mask) + 0.1 * jnp.sum(log_prob * mask * episode_return)


def standardised(log_prob, episode_return, mask):
    return reinforce(log_prob, (episode_return - episode_return.mean()) / (episode_return.std() + 0.1), mask)


def better_half(log_prob, episode_return, mask):
    return reinforce(log_prob, (episode_return > jnp.median(episode_return)) * 1.0, mask)


@pytest.mark.parametrize(
    ("loss", "repeated", "judged"),
    [
        (reinforce, "unchanged", False),
        (lambda log_prob, episode_return, mask: -jnp.sum(log_prob * mask * episode_return), "doubled (a sum)", False),
        (mean_and_sum, "changed", False),
        (batch_mean, "unchanged", True),
        (standardised, "unchanged", True),
        (batch_others, "changed", True),
        (better_half, "unchanged", True),
        (group_mean, "unchanged", True),
    ],
)
def test_how_a_loss_scales_and_whom_it_judges_by_are_two_questions(loss, repeated, judged):
    found = verdicts(loss, [FIXED, VARIED])
    assert found["trajectories repeated"].verdict == repeated
    assert found["rewards of another trajectory changed"].verdict == ("changed" if judged else "unchanged")


@pytest.mark.parametrize("others", [False, True])
def test_a_loss_of_groups_of_one_size_scales_like_a_mean_over_groups(others):
    """It cuts a batch into pairs; a batch with each answer twice has other pairs, one with each pair twice has not."""

    def of_pairs(log_prob, episode_return, mask):
        pairs = episode_return.reshape(-1, 2)
        center = pairs[:, ::-1] if others else pairs.mean(1, keepdims=True)
        return reinforce(log_prob, (pairs - center).ravel(), mask)

    assert GROUPED.group_size == 2
    assert verdicts(of_pairs, [GROUPED])["trajectories repeated"].verdict == "unchanged"


@pytest.mark.costly
def test_trajectories_judge_each_other_through_groups_and_credits_too():
    assert verdicts(group_mean, [GROUPED])["rewards of another trajectory changed"].verdict == "changed"

    def with_credit(log_prob, mask, adv):
        return -jnp.sum(log_prob * adv * mask)

    for credit, judged in ((baselined(total_return, leave_one_out), "changed"), (total_return, "unchanged")):
        assert (
            verdicts(with_credit, [ARMS], names={"adv": credit})["rewards of another trajectory changed"].verdict
            == judged
        )


def test_rewards_that_make_no_difference_are_not_standardised():
    found = certify(lambda log_prob, mask, reward: jnp.sum(log_prob**2 * mask), problems=ARMS)
    assert (
        said(found)["reward scaled"]
        == "unchanged for any rewards: the gradient does not depend on rewards (at distance 0.4)"
    )


def test_the_distance_of_an_invariance_is_said_and_what_is_about_the_gradient_is_tested_on_policy_too():
    certificate = certify(reinforce, problems=FIXED)
    found = {x.name: x for x in certificate.invariances}
    assert found["reward shifted, on-policy"].verdict == "unchanged in the mean"
    assert found["reward shifted"].verdict == "changed" and found["reward shifted"].distance == 0.4
    for name, verdict in said(certificate).items():
        if name in found:
            where = "on-policy" if found[name].distance == 0 else "at distance 0.4"
            assert where in name or verdict.endswith(f"({where})"), name


# --- what it is equal to ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_baseline_of_the_others_that_ignores_groups_is_named():
    (name,) = said_equal(batch_others, [VARIED, GROUPED])
    assert name.startswith("baselined(total_return, leave_one_out) × score, on problems without groups")
    assert "on problems with groups, computed over the whole batch" in name

    def in_groups_wrong(log_prob, episode_return, mask, group):
        return batch_others(log_prob, episode_return, mask) * (1 + group.max())

    (name,) = said_equal(in_groups_wrong, [VARIED, GROUPED])
    assert name == "baselined(total_return, leave_one_out) × score, on problems without groups"


def said_equal(loss, problems, **how):
    return certify(loss, problems=problems, **how).equal[0].otherwise.values()


def test_a_mean_over_time_is_a_multiple_with_a_formula():
    (name,) = said_equal(mean_over_cells, [VARIED, TWO_STEPS], pad_to="horizon")
    assert name == "c · total_return × score with c = 1/T"


@pytest.mark.slow
def test_many_products_on_many_batches_do_not_lie_in_memory_together():
    chain = oracle.problem(oracle.make_mdp([1.0], [[[1.0], [1.0]]], [[1.0, 0.0]], horizon=6), name="chain")
    (case,) = make_cases(reinforce, chain)
    found = estimates(case, chain.logits, chain.logits)
    assert len(found.value) > 2000
    tracemalloc.start()
    equal_to([(case, found)], 0.0, exact=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7  # all at once they take more than 4e7


# --- what it was given, and refusals ----------------------------------------------------------------------------------


def optional(log_prob, mask, returns, value=None):
    return -jnp.mean((log_prob * mask * (returns if value is None else returns - value)).sum(0))


def test_arrays_given_are_listed_and_can_be_left_out():
    assert said(certify(optional, problems=ARMS))["arrays given"] == "log_prob, mask, returns, value"
    for without in (("value",), "value"):
        certificate = certify(optional, problems=ARMS, without=without)
        assert certificate.arrays == {"log_prob": "log_prob", "mask": "mask", "returns": "returns"}
        assert "reward_to_go × score" in certificate.equal[0].on_batches
    assert_same_estimator(optional, losses.discount_dropped, problems=ARMS, without=["value"])


def test_a_line_speaks_of_what_the_loss_sees():
    flat = certify(lambda log_prob, episode_return: -jnp.sum(log_prob), problems=VARIED, layout="flat")
    assert "arrays flat, without padding" in str(flat) and "padded" not in str(flat)
    blind = certify(to_the_old_policy, problems=LIMITED)
    assert (
        blind.ends is None
        and said(blind)["time limits"] == "not tested: the loss takes neither rewards nor termination flags"
    )
    assert said(certify(reinforce, problems=LIMITED))["time limits"] == "treated as terminations"


RNG = np.random.default_rng(0)


def drops_a_step(log_prob, episode_return, mask):
    """Random from two steps on."""
    keep = np.zeros(len(mask))
    keep[RNG.permutation(len(mask))[: max(1, len(mask) // 2)]] = 1.0
    slope = -keep[:, None] * mask * episode_return
    return float((slope * log_prob).sum()), slope


def drops_a_step_when_traced(log_prob, episode_return, mask):
    keep = np.ones(len(mask)) if len(mask) < 3 else RNG.permutation(len(mask)) * 1.0
    return -jnp.sum(log_prob * keep[:, None] * mask * episode_return)


def with_others(log_prob, episode_return, mask):
    return reinforce(log_prob, episode_return / (episode_return - episode_return.mean()), mask)


@pytest.mark.parametrize(
    ("loss", "how", "message"),
    [
        (drops_a_step, {"framework": "numpy", "problems": [ARMS, FIXED]}, r"a different result .*\(of 'fixed'\)"),
        (drops_a_step_when_traced, {"problems": [ARMS, FIXED, VARIED]}, r"a different result .*\(of 'varied'\)"),
        (lambda log_prob: (jnp.sum(log_prob), {"a": 1.0}), {}, "returns 2 values; must return one number"),
        (lambda log_prob: [jnp.sum(log_prob)], {}, "returns 1 values; must return one number"),
        (lambda log_prob: {"loss": jnp.sum(log_prob)}, {}, "returns 1 values; must return one number"),
        (lambda log_prob: None, {}, "returns None; must return one number"),
        (lambda log_prob: 1j * jnp.sum(log_prob), {}, "returns complex128; must return a real number"),
        (lambda log_prob: (1j * log_prob.sum(), 0 * log_prob), {"framework": "numpy"}, "returns complex128"),
        (lambda log_prob: jnp.sum(log_prob).astype(int), {}, "returns int64"),
        (batch_mean, {"problems": ALONE}, "1 trajectory, which has no others for a baseline: increase batch_size"),
        (with_others, {"problems": ALONE}, "not finite .* a batch of 1 trajectory has no others"),
        (losses.detached, {"problems": ALONE}, "check for a stop-gradient or detach"),
        (reinforce, {"names": 3}, "names: 3 must map parameters to arrays"),
        (reinforce, {"names": {"mask": 3}}, r"names\['mask'\]: 3 must be a credit or the name of an array"),
        (reinforce, {"without": 3}, "without: 3 must be a list of parameters"),
        (reinforce, {"without": ["values"]}, "without: 'values' is not a parameter of reinforce"),
        (reinforce, {"without": ["mask"]}, "without: 'mask' has no default in reinforce"),
        (reinforce, {"problems": ARMS, "max_batches": 2}, "means 3 batches of 2 out of 2 trajectories"),
        (reinforce, {"problems": VARIED, "max_batches": 4}, r"has \d+ trajectories; at most 4"),
    ],
)
def test_the_cause_of_a_refusal_is_the_cause_that_is_named(loss, how, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(SettingError, match=message) as error:
            certify(loss, **{"problems": ARMS} | how)
    assert "\n" not in str(error.value)


@pytest.mark.costly
def test_a_baseline_on_the_library_side_is_the_same_estimator():
    assert_same_estimator(batch_mean, product(baselined(total_return, same_batch_mean), score), problems=SHORT)


def test_numbers_of_a_report_never_hide_a_difference():
    assert (
        describe.number(0.12345) == "0.123" and describe.number(3e-16) == "0" and describe.number(3e-16, 0) == "3e-16"
    )
    assert describe.number(None) == "–" and describe.number(float("inf")) == "not finite"
    assert describe.degrees(1e-5) == "1e-05°" and describe.degrees(0.0) == "0°"
    assert (factor_text(0.5), factor_text(1.0)) == ("0.5 · ", "")


def test_the_precision_of_a_loss_is_found_from_its_values():
    values = np.array([0.1, 0.3])
    assert (
        precision_of(values).name == "float64"
        and precision_of(values.astype(np.float32).astype(float)).name == "float32"
    )
    assert precision_of(np.array([0.0, 0.5])).name == "float64"  # representable in every type


def test_layouts_place_padding_on_their_side():
    mask = np.array([[[1, 1], [0, 1]]])  # one batch, lengths 1 and 2
    assert packings(mask, "batch_major_left", "longest")[0].cell.tolist() == [[[4, 0], [1, 3]]]
    assert packings(mask, "flat", "longest")[0].cell.tolist() == [[0, 1, 3]]
    assert permutations(4, 2) == [[1, 0, 2, 3], [2, 3, 0, 1]] and permutations(3, 1) == [[1, 0, 2], [1, 2, 0]]
