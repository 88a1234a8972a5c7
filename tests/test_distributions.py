"""Distributions against numerical integration and scipy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

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


def expectation(function, mean, std):
    """E function(u) for u ~ N(mean, std²): adaptive quadrature, cut where tanh bends."""
    cuts = np.clip([-12, 0, 12, *((np.array([-20, -3, 0, 3, 20]) - mean) / std)], -12, 12)
    pieces = [
        integrate.quad(lambda z: function(mean + std * z) * stats.norm.pdf(z), a, b, epsabs=1e-12, limit=200)[0]
        for a, b in itertools.pairwise(np.unique(cuts))
    ]
    return sum(pieces)


SQUASHED = [(mean, std) for mean in (0.0, 0.4, -2.0, 5.0) for std in (0.01, 0.3, 1.0, 4.0, 20.0)]


@pytest.mark.costly
def test_squashed_entropy_and_its_slopes_are_those_of_the_squashed_density(x64):
    """H = H(N) + E f(u) with f = log(1 − tanh²), f' = −2 tanh; slopes E f' in μ and 1 + E (u − μ) f' in log σ."""
    mean, std = np.array(SQUASHED).T

    def entropy(mean, log_std):
        one = jnp.ones(1)
        return SquashedGaussian(mean[None], log_std[None], -one, one).entropy()

    arguments = jnp.asarray(mean), jnp.log(jnp.asarray(std))
    got, (in_mean, in_log_std) = jax.vmap(jax.value_and_grad(entropy, (0, 1)))(*arguments)
    slope = [expectation(lambda u: 2 * (np.log(2) - abs(u) - np.log1p(np.exp(-2 * abs(u)))), *at) for at in SQUASHED]
    np.testing.assert_allclose(got, stats.norm(mean, std).entropy() + slope, atol=1e-8)
    np.testing.assert_allclose(in_mean, [expectation(lambda u: -2 * np.tanh(u), *at) for at in SQUASHED], atol=1e-8)
    expected = [1 + expectation(lambda u, m=at[0]: -2 * (u - m) * np.tanh(u), *at) for at in SQUASHED]
    np.testing.assert_allclose(in_log_std, expected, atol=2e-8)


@pytest.mark.costly
def test_squashed_entropy_is_minus_the_mean_log_density_and_adds_up_over_dimensions():
    mean, log_std = jnp.array([0.3, -1.0]), jnp.array([0.5, -1.0])
    d = SquashedGaussian(mean, log_std, -jnp.ones(2), jnp.ones(2))
    log_prob = d.log_prob(d.at(jax.random.normal(jax.random.key(0), (100_000, 2))))
    np.testing.assert_allclose(d.entropy(), -log_prob.mean(), atol=5 * log_prob.std() / np.sqrt(100_000))
    each = [SquashedGaussian(*(x[i : i + 1] for x in d)).entropy() for i in range(2)]
    np.testing.assert_allclose(d.entropy(), sum(each), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "log_std"), [(100.0, np.log(3000.0)), (0.0, np.log(3000.0)), (100.0, -50.0), (1e4, 5.0), (0.0, -120.0)]
)
def test_squashed_entropy_is_finite_far_out(mean, log_std):
    def entropy(mean, log_std):
        return SquashedGaussian(mean[None], log_std[None], -jnp.ones(1), jnp.ones(1)).entropy()

    value, slopes = jax.value_and_grad(entropy, (0, 1))(jnp.float32(mean), jnp.float32(log_std))
    assert np.isfinite([value, *slopes]).all()
    assert slopes[1] < 0 if log_std > 5 else slopes[1] == 1  # a bonus never widens a policy that fills the box


def test_an_entropy_bonus_settles_at_a_finite_width():
    """Ascent on the entropy alone: the widest squashed density at mean 0 has σ ≈ 0.87, where the slope is 0."""
    slope = jax.jit(jax.grad(lambda s: make(SquashedGaussian, 0.0, 0.0)._replace(log_std=s[None]).entropy()))
    log_std = jnp.float32(3.0)
    for _ in range(300):
        log_std += 0.1 * jnp.clip(slope(log_std), -1.0, 1.0)
    np.testing.assert_allclose(jnp.exp(log_std), 0.8745, atol=1e-3)
