"""Every method in the table by enumeration, with the estimator its recipe makes, in float64: exact, or with which bias.

Batches of two, since most methods judge a trajectory by the others. Critics are right, and those of the policy that
sampled, as in training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MDPS

from pgjax import ALGORITHMS, oracle

pytestmark = pytest.mark.usefixtures("x64")

log_policy = jax.nn.log_softmax
HALVED = {"weighted_is", "weighted_per_decision_is"}  # divide by their own weights: (1 − 1/N) ∇J at equal policies
EXACT_AT_ANY_DISTANCE = {"trajectory_is", "per_decision_is", "doubly_robust", "storm"}
SCALED = {"dr_grpo": 1 / 2 / 3, "sampler_is": 1 / 2 / 3}  # (1 − 1/G) / T, of groups of two and three steps
BIASED = {"grpo", "dapo", "gspo", "gspo_token", "cispo", "reinforce_pp", "delightful", "awr", "vmpo"}  # in direction
DROPPED = {"prefix_is": "prefix", "suffix_is": "suffix", "first_order": "first_order"}
DROPPED |= {"npg": "first_order", "trpo": "first_order"}  # GAE × ratio; exact values leave no other bias at λ = 1


def policies(mdp):
    """Two sets of logits, independent of each other."""
    return jnp.asarray(np.random.default_rng(11).normal(size=(2, *mdp.reward.shape)))


def mean(mdp, name, theta, behaviour, **settings):
    values = oracle.exact_values(mdp, log_policy(behaviour))
    sampling = oracle.Sampling(log_policy(behaviour), values.value, values.action_value, batch_size=2)
    return oracle.moments(mdp, ALGORITHMS[name](**settings).algorithm.estimator, log_policy, theta, sampling).mean


@pytest.mark.few(8, costly=14)
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in BIASED])
def test_at_equal_policies_every_method_has_the_gradient_as_its_mean(name):
    mdp = MDPS["variable_length"]
    theta = policies(mdp)[0]
    exact = np.ravel(oracle.exact_gradient(mdp, log_policy, theta))
    share = 0.5 if name in HALVED else SCALED.get(name, 1.0)
    np.testing.assert_allclose(mean(mdp, name, theta, theta), share * exact, atol=1e-12)


@pytest.mark.few(3, costly=6)
@pytest.mark.parametrize("name", sorted(BIASED))
def test_what_the_ratio_family_says_of_its_bias_shows_at_equal_policies(name):
    mdp = MDPS["variable_length"]
    theta = policies(mdp)[0]
    exact, found = np.ravel(oracle.exact_gradient(mdp, log_policy, theta)), mean(mdp, name, theta, theta)
    assert found @ exact / np.linalg.norm(found) / np.linalg.norm(exact) < 1 - 1e-4


@pytest.mark.parametrize("name", sorted(EXACT_AT_ANY_DISTANCE | set(DROPPED)))
def test_away_from_the_data_a_method_is_exact_or_has_the_bias_of_its_dropped_ratios(name):
    mdp = MDPS["variable_length"]
    theta, behaviour = policies(mdp)
    means = oracle.mean_gradients(mdp, log_policy, theta, log_policy(behaviour))
    settings = {"gae_lambda": 1.0} if name in ("npg", "trpo") else {}
    expected = means.exact if name in EXACT_AT_ANY_DISTANCE else getattr(means, DROPPED[name])
    np.testing.assert_allclose(mean(mdp, name, theta, behaviour, **settings), expected, atol=1e-12)
    assert np.linalg.norm(means.first_order - means.exact) > 1e-2
