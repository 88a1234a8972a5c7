"""Distributions against numerical integration and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pgjax import Categorical, Gaussian, SquashedGaussian

BOX = (jnp.array([-2.0]), jnp.array([6.0]))


def make(kind, mean=0.3, log_std=-0.4):
    return kind(jnp.array([mean]), jnp.array([log_std]), *BOX)


def test_categorical_against_its_definition():
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    d = Categorical(jnp.asarray(logits))
    action = jnp.array([0, 4, 2])
    np.testing.assert_allclose(d.log_prob(action), np.log(p[np.arange(3), action]), rtol=1e-5)
    np.testing.assert_allclose(d.entropy(), stats.entropy(p, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(
        d.kl(Categorical(d.logits[::-1])), stats.entropy(p, p[::-1], axis=-1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(d.mode(), p.argmax(-1))


def test_categorical_samples_with_its_probabilities():
    d = Categorical(jnp.log(jnp.array([0.2, 0.5, 0.3])))
    samples = jax.vmap(d.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.bincount(samples) / 20_000, [0.2, 0.5, 0.3], atol=0.015)


def test_categorical_stays_finite_at_extreme_logits():
    def loss(logits):
        d = Categorical(logits)
        return d.log_prob(jnp.array(1)) + d.entropy() + d.kl(Categorical(-logits))

    value, gradient = jax.value_and_grad(loss)(jnp.array([1e4, -1e4]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_gaussian_against_scipy():
    d = make(Gaussian)
    reference = stats.norm(0.3, np.exp(-0.4))
    np.testing.assert_allclose(d.log_prob(jnp.array([1.1])), reference.logpdf(1.1), rtol=1e-5)
    np.testing.assert_allclose(d.entropy(), reference.entropy(), rtol=1e-5)


@pytest.mark.parametrize("kind", [Gaussian, SquashedGaussian])
def test_kl_by_integration(kind):
    p, q = make(kind), make(kind, mean=-0.5, log_std=0.2)
    u = np.linspace(-8, 8, 20_001)[:, None]
    normal_p, normal_q = stats.norm(0.3, np.exp(-0.4)), stats.norm(-0.5, np.exp(0.2))
    expected = np.trapezoid(normal_p.pdf(u[:, 0]) * (normal_p.logpdf(u[:, 0]) - normal_q.logpdf(u[:, 0])), u[:, 0])
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-4)
    assert p.kl(p) == 0 and p.kl(q) != q.kl(p)


def test_squashed_density_integrates_to_one_over_the_unit_box():
    d = make(SquashedGaussian)
    a = np.linspace(-1, 1, 200_001)[1:-1]
    density = np.exp(jax.vmap(lambda u: d.log_prob(u[None]))(jnp.arctanh(jnp.asarray(a))))
    np.testing.assert_allclose(np.trapezoid(density, a), 1.0, atol=2e-3)


def test_squashed_log_prob_stays_exact_where_tanh_saturates():
    value, gradient = jax.value_and_grad(lambda u: make(SquashedGaussian, 20.0).log_prob(u))(jnp.array([20.0]))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_allclose(value, stats.norm(0, np.exp(-0.4)).logpdf(0) - 2 * (np.log(2) - 20), rtol=1e-5)


@pytest.mark.parametrize("kind", [Gaussian, SquashedGaussian])
def test_the_environment_receives_actions_inside_the_box(kind):
    d = make(kind, log_std=2.0)
    raw = jax.vmap(d.sample)(jax.random.split(jax.random.key(1), 1000))
    sent = jax.vmap(d.to_environment)(raw)
    assert np.abs(raw).max() > 1 and sent.min() >= -2 and sent.max() <= 6
    np.testing.assert_allclose(make(kind, mean=0.0).to_environment(jnp.zeros(1)), [2.0])  # the centre of the box
