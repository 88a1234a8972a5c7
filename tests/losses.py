"""Losses as a user would write them, one right and the others each with one mistake; and the problems to see it on."""

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from pgjax import oracle

ENDING = np.array([[[0.0, 0.6], [1.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]]])
REWARD = np.array([[1.0, 0.4], [-0.6, 0.8]])
VARIED = oracle.problem(oracle.make_mdp([0.7, 0.3], ENDING, REWARD, horizon=3, discount=0.9), name="varied")
FIXED = oracle.problem(oracle.make_mdp([1.0, 0.0], ENDING.round(), REWARD, horizon=2), name="fixed")
SHORT = oracle.problem(oracle.make_mdp([0.7, 0.3], ENDING, REWARD, horizon=2, discount=0.9), name="short")
LIMITED = oracle.problem(
    oracle.make_mdp([0.7, 0.3], ENDING, REWARD, horizon=2, discount=0.9), name="limited", time_limit=True
)
GROUPED = oracle.problem(
    oracle.make_mdp([0.6, 0.4], ENDING[:, :, ::-1] * 0.5, REWARD, horizon=2), name="grouped", batch_size=4, group_size=2
)
SMALL = [FIXED, VARIED]


def trajectory_is(log_prob, behaviour_log_prob, episode_return, mask):
    """Exact at every distance."""
    weight = stop_gradient(jnp.exp(jnp.sum((log_prob - behaviour_log_prob) * mask, axis=0)))
    return -jnp.mean(weight * jnp.sum(log_prob * mask, axis=0) * episode_return)


def flipped(log_prob, behaviour_log_prob, episode_return, mask):
    return -trajectory_is(log_prob, behaviour_log_prob, episode_return, mask)


def mask_dropped(log_prob, behaviour_log_prob, episode_return, mask):
    weight = stop_gradient(jnp.exp(jnp.sum((log_prob - behaviour_log_prob) * mask, axis=0)))
    return -jnp.mean(weight * jnp.sum(log_prob, axis=0) * episode_return)


def ratios_inverted(log_prob, behaviour_log_prob, episode_return, mask):
    weight = stop_gradient(jnp.exp(jnp.sum((behaviour_log_prob - log_prob) * mask, axis=0)))
    return -jnp.mean(weight * jnp.sum(log_prob * mask, axis=0) * episode_return)


def detached(log_prob, behaviour_log_prob, episode_return, mask):
    return trajectory_is(stop_gradient(log_prob), behaviour_log_prob, episode_return, mask)


def padded_mean(log_prob, behaviour_log_prob, episode_return, mask):
    """Divides by the longest member of the batch, whatever it is."""
    return trajectory_is(log_prob, behaviour_log_prob, episode_return, mask) / mask.shape[0]


def own_length(log_prob, behaviour_log_prob, episode_return, mask, lengths):
    return trajectory_is(log_prob, behaviour_log_prob, episode_return / lengths, mask)


def own_mean(log_prob, behaviour_log_prob, episode_return, mask):
    """A baseline that contains what it judges."""
    return trajectory_is(log_prob, behaviour_log_prob, episode_return - episode_return.mean(), mask)


def discount_dropped(log_prob, returns, mask):
    return -jnp.mean(jnp.sum(log_prob * returns * mask, axis=0))


def clipped(log_prob, behaviour_log_prob, returns, mask, clip=0.2):
    ratio = jnp.exp(log_prob - behaviour_log_prob)
    pessimistic = jnp.minimum(ratio * returns, jnp.clip(ratio, 1 - clip, 1 + clip) * returns)
    return -jnp.mean(jnp.sum(pessimistic * mask, axis=0))


def full_distribution(log_probs, log_prob, action_value, returns, mask):
    """Looks at both arrays: an expected value, and a taken action's."""
    expected = jnp.sum(jnp.exp(log_probs) * action_value, axis=-1)
    return -jnp.mean(jnp.sum((expected + log_prob * returns) * mask, axis=0))


def full_distribution_numpy(log_probs, log_prob, action_value, returns, mask):
    expected = np.exp(log_probs) * action_value * mask[..., None] / mask.shape[1]
    taken = returns * mask / mask.shape[1]
    return -expected.sum() - (log_prob * taken).sum(), -expected, -taken


# The same loss in three layouts: mean over trajectories of Σ_t ρ_t Q̂_t.


def ratio_time_major(log_prob, behaviour_log_prob, returns, mask):
    return -jnp.sum(jnp.exp(log_prob - behaviour_log_prob) * returns * mask) / mask.shape[1]


def ratio_batch_major(log_prob, behaviour_log_prob, returns, mask):
    return -jnp.sum(jnp.exp(log_prob - behaviour_log_prob) * returns * mask) / mask.shape[0]


def ratio_flat(log_prob, behaviour_log_prob, returns, lengths):
    return -jnp.sum(jnp.exp(log_prob - behaviour_log_prob) * returns) / lengths.shape[0]


def ratio_numpy(log_prob, behaviour_log_prob, returns, mask):
    """The same in numpy, with its gradient by hand."""
    each = np.exp(log_prob - behaviour_log_prob) * returns * mask / mask.shape[1]
    return -each.sum(), -each


def ratio_torch(log_prob, behaviour_log_prob, returns, mask):
    return -((log_prob - behaviour_log_prob).exp() * returns * mask).sum() / mask.shape[1]
