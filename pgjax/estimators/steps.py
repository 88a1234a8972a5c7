"""Policy steps that replace the optimiser: natural gradient and trust region."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from pgjax.estimators.distributions import Distribution
from pgjax.types import Params

CG_ITERATIONS = 10
BACKTRACKS = 10
SHRINK = 0.7


class PolicyProblem(NamedTuple):
    """Input of a policy step: smooth functions of the policy's parameters on one batch.

    Attributes:
      policy: the parameters that sampled the batch.
      gradient: ascent gradient of the surrogate at `policy`.
      surrogate: policy -> scalar to maximise.
      distribution: policy -> distributions at the visited states, [T, N].
      weight: of each step in means over states, [T, N], summing to 1.
    """

    policy: Params
    gradient: Params
    surrogate: Callable[[Params], Array]
    distribution: Callable[[Params], Distribution]
    weight: Array

    def kl(self, policy: Params) -> Array:
        """Mean KL(π_θ̄ ‖ π_θ) per step over the visited states."""
        return jnp.sum(self.weight * self.distribution(self.policy).kl(self.distribution(policy)))


def fisher_product(problem: PolicyProblem, vector: Params) -> Params:
    """Fisher-vector product F v, with F the mean Fisher matrix at the visited states, which is never formed.

        F = E_s[ Jᵀ M J ],   J = ∂(distribution's parameters)/∂θ,   M = their Fisher matrix.

    M is applied as the curvature of the KL in the distribution's parameters.
    """
    distribution, tangent = jax.jvp(problem.distribution, (problem.policy,), (vector,))
    slope = jax.grad(lambda other: jnp.sum(problem.weight * distribution.kl(other)))
    curved = jax.jvp(slope, (distribution,), (tangent,))[1]
    return jax.vjp(problem.distribution, problem.policy)[1](curved)[0]


def natural_direction(problem: PolicyProblem, damping: ArrayLike) -> tuple[Params, Array]:
    """x = (F + damping)⁻¹ g by conjugate gradients, and xᵀ(F + damping)x.

    Kakade 2001; Schulman et al. 2015, appendix C.
    """

    def product(v: Params) -> Params:
        return jax.tree.map(lambda f, x: f + damping * x, fisher_product(problem, v), v)

    direction = conjugate_gradients(product, problem.gradient)
    return direction, jnp.asarray(optax.tree.vdot(direction, product(direction)))


def conjugate_gradients(product: Callable[[Params], Params], target: Params) -> Params:
    """Solve A x = b by at most CG_ITERATIONS steps from 0, ending when the residual has fallen by a factor 1e-6.

    `product` is v -> A v, with A symmetric positive definite; `target` is b, a pytree. The loop is a scan, because
    `jax.scipy.sparse.linalg.cg` (a while loop) gave wrong directions under vmap on CPU with jaxlib 0.10.2. Hestenes &
    Stiefel 1952.
    """

    def inner(a: Params, b: Params) -> Array:
        return jnp.asarray(optax.tree.vdot(a, b))

    def add(a: Params, scale: Array, b: Params) -> Params:
        return jax.tree.map(lambda x, y: x + scale * y, a, b)

    def iteration(carry: tuple[Params, Params, Params, Array], _: None) -> tuple[tuple, None]:
        x, residual, direction, size = carry
        image = product(direction)
        curvature = inner(direction, image)
        active = (size > 1e-12 * initial_size) & (curvature > 0)
        length = jnp.where(active, size / jnp.where(active, curvature, 1.0), 0.0)
        residual = add(residual, -length, image)
        new_size = jnp.where(active, inner(residual, residual), size)
        new_direction = add(residual, new_size / jnp.where(size > 0, size, 1.0), direction)
        return (add(x, length, direction), residual, new_direction, new_size), None

    initial_size = inner(target, target)
    zeros = jax.tree.map(jnp.zeros_like, target)
    return jax.lax.scan(iteration, (zeros, target, target, initial_size), None, CG_ITERATIONS)[0][0]


def natural_step(
    problem: PolicyProblem,
    max_kl: ArrayLike = 0.01,
    step_size: ArrayLike = float("inf"),
    damping: ArrayLike = 1e-2,
) -> tuple[Params, dict[str, Array]]:
    """One natural-gradient step, shortened so that its KL per step, to second order, is at most `max_kl`:

        θ ← θ + min(α, √(2δ / xᵀFx)) x,   x = F⁻¹ g.

    With a finite α, steps shrink with the gradient. With α = ∞ every step has KL δ, so near an optimum, where the
    gradient is mostly noise, the policy performs a random walk. Returns the policy, and metrics `kl_step` and
    `step_length`. Kakade 2001. https://papers.nips.cc/paper/2073

    >>> from pgjax import Gaussian
    >>> unit = lambda mean: Gaussian(mean[None], jnp.zeros((1, 2)), None, None)  # F is the identity
    >>> problem = PolicyProblem(jnp.zeros(2), jnp.array([3.0, 4.0]), lambda p: 3 * p[0] + 4 * p[1], unit, jnp.ones(1))
    >>> policy, metrics = natural_step(problem, max_kl=0.02, damping=0.0)
    >>> [round(x, 3) for x in policy.tolist()], round(float(metrics["kl_step"]), 4)
    ([0.12, 0.16], 0.02)
    """
    policy, length = _full_step(problem, max_kl, step_size, damping)
    return policy, {"kl_step": problem.kl(policy), "step_length": length}


def trust_region_step(
    problem: PolicyProblem,
    max_kl: ArrayLike = 0.01,
    step_size: ArrayLike = float("inf"),
    damping: ArrayLike = 1e-2,
) -> tuple[Params, dict[str, Array]]:
    """The natural step, backtracked until the mean KL(old ‖ new) is at most `max_kl` *and* the surrogate has increased.

    If no step length satisfies both, the parameters are returned unchanged. Returns the policy, and metrics `kl_step`,
    `step_length`, `backtracks`, `accepted`. Schulman et al. 2015. https://arxiv.org/abs/1502.05477
    """
    full, length = _full_step(problem, max_kl, step_size, damping)
    before = problem.surrogate(problem.policy)

    def at(fraction: Array) -> Params:
        return jax.tree.map(lambda a, b: a + fraction * (b - a), problem.policy, full)

    def passes(fraction: Array) -> Array:
        policy = at(fraction)
        return (problem.kl(policy) <= max_kl) & (problem.surrogate(policy) > before)

    def searching(tried: tuple[Array, Array]) -> Array:
        return (tried[0] < BACKTRACKS) & ~tried[1]

    def shorter(tried: tuple[Array, Array]) -> tuple[Array, Array]:
        return tried[0] + 1, passes(fractions[tried[0]])

    fractions = SHRINK ** jnp.arange(BACKTRACKS, dtype=length.dtype)
    tried, accepted = jax.lax.while_loop(searching, shorter, (jnp.int32(0), jnp.bool_(False)))
    tries = tried - 1
    fraction = fractions[tries]
    policy = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), at(fraction), problem.policy)
    return policy, {
        "kl_step": problem.kl(policy),
        "step_length": jnp.where(accepted, fraction * length, 0.0),
        "backtracks": jnp.where(accepted, tries, BACKTRACKS),
        "accepted": accepted.astype(length.dtype),
    }


def _full_step(
    problem: PolicyProblem, max_kl: ArrayLike, step_size: ArrayLike, damping: ArrayLike
) -> tuple[Params, Array]:
    direction, curvature = natural_direction(problem, damping)
    max_length = jnp.sqrt(2.0 * max_kl / jnp.where(curvature > 0, curvature, 1.0))
    length = jnp.where(curvature > 0, jnp.minimum(step_size, max_length), 0.0)
    return jax.tree.map(lambda p, x: p + length * x, problem.policy, direction), length
