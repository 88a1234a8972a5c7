"""The assertions of `pgjax.testing` on losses: each passes for what is right and fails with the figure that failed."""

import jax.numpy as jnp
import losses
import pytest
from losses import FIXED, SMALL, VARIED

from pgjax import ALGORITHMS, product, reward_to_go, total_return, trajectory_weight
from pgjax.testing import (
    assert_a_gradient,
    assert_padding_ignored,
    assert_same_estimator,
    assert_scale,
    assert_unbiased,
)


def where_masked(log_prob, episode_return, mask):
    return -jnp.mean(jnp.sum(jnp.where(mask > 0, log_prob, 0.0), axis=0) * episode_return)


def reads_padding(log_prob, reward, mask):
    """A baseline over all cells, padding and all."""
    return -jnp.sum(log_prob * (reward - reward.mean()) * mask) / mask.shape[1]


def test_what_is_right_passes():
    assert_unbiased(losses.trajectory_is, problems=SMALL)
    assert_unbiased(losses.trajectory_is, distance=0.4, objective="discounted", problems=SMALL)
    assert_scale(losses.own_mean, lambda p: 1 - 1 / p.batch_size, problems=SMALL)
    assert_scale(losses.flipped, -1, problems=SMALL)
    assert_same_estimator(losses.trajectory_is, product(total_return, trajectory_weight), problems=SMALL)
    assert_padding_ignored(where_masked, nan=True, problems=SMALL)
    assert_a_gradient(losses.trajectory_is, problems=SMALL)
    assert_a_gradient(losses.clipped, data="fixed", problems=VARIED)


def test_layouts_and_frameworks_may_differ():
    other = losses.ratio_flat, {"layout": "flat"}
    assert_same_estimator(losses.ratio_numpy, other, framework="numpy", problems=VARIED)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: assert_unbiased(losses.flipped, problems=SMALL),
            "relative error of 2 against ∇J, .*scale -1, cosine -1",
        ),
        (
            lambda: assert_unbiased(losses.discount_dropped, problems=SMALL),
            "on 'varied' at distance 0 .* relative error of 0.0",
        ),
        (
            lambda: assert_unbiased(losses.clipped, distance=0.4, problems=FIXED),
            "clipped: on 'fixed' at distance 0.4 the mean gradient has a relative error of",
        ),
        (
            lambda: assert_unbiased(losses.trajectory_is, objective="undiscounted", problems=SMALL),
            r"on 'varied' .* J = E\[Σ_t r_t\]",
        ),
        (
            lambda: assert_scale(losses.own_mean, 0.6, problems=SMALL),
            "relative error of 0.167 against 0.6 · ∇J, .*scale 0.5",
        ),
        (
            lambda: assert_same_estimator(losses.clipped, losses.ratio_time_major, problems=SMALL),
            "clipped and ratio_time_major differ by .* at distance 0.4, most on a batch of lengths",
        ),
        (lambda: assert_padding_ignored(losses.mask_dropped, problems=SMALL), "gradients through padding are up to"),
        (
            lambda: assert_padding_ignored(reads_padding, problems=SMALL),
            "1000 on padding changes gradients by .*",
        ),
        (lambda: assert_padding_ignored(losses.trajectory_is, nan=True, problems=SMALL), "nan on padding changes"),
        (lambda: assert_padding_ignored(losses.trajectory_is, problems=FIXED), "no problem has padding"),
        (lambda: assert_a_gradient(losses.discount_dropped, problems=SMALL), "data of π_θ .* 'varied'"),
        (
            lambda: assert_a_gradient(ALGORITHMS["prefix_is"]().algorithm, data="fixed", problems=VARIED),
            r"prefix.*data of a fixed policy ‖M − Mᵀ‖/‖M‖ is .* on 'varied'",
        ),
    ],
)
def test_what_is_wrong_fails_with_its_figure(call, said):
    with pytest.raises(AssertionError, match=said):
        call()


def test_a_wrong_argument_is_no_failed_assertion():
    for call in (
        lambda: assert_unbiased(losses.clipped, objective="average", problems=FIXED),
        lambda: assert_a_gradient(losses.clipped, data="moving", problems=FIXED),
        lambda: assert_same_estimator(product(reward_to_go, trajectory_weight), 3, problems=FIXED),
    ):
        with pytest.raises(ValueError):
            call()
