"""Recipes with a critic V(s), for streams of steps: A2C, PPO, natural gradient, TRPO, V-trace.

In all of them `learning_rate` is Adam's, `discount` is γ, and `gae_lambda` is λ of GAE and of the value target.
"""

from dataclasses import replace

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Config, Recipe
from pgjax.estimators.advantages import gae, lambda_return, vtrace, vtrace_target
from pgjax.estimators.baselines import standardised
from pgjax.estimators.clipping import dual_clipped_ratio
from pgjax.estimators.products import product
from pgjax.estimators.steps import natural_step, trust_region_step
from pgjax.estimators.surrogates import clipped_ratio, ratio, score
from pgjax.types import Algorithm

STREAM = Config(rollout="stream", mean="steps", critic="state", num_envs=16, num_steps=16)


def a2c(
    *,
    gae_lambda: ArrayLike = 1.0,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 0.99,
    value_coefficient: ArrayLike = 0.5,
    max_grad_norm: ArrayLike = 0.5,
) -> Recipe:
    """Advantage actor-critic: GAE(λ) × score, with one update per small batch.

    Mnih et al. 2016; Schulman et al. 2016.

    On CartPole, `Config.normalise_rewards` lets more seeds reach a return of 500.

    >>> a2c().config.rollout
    'stream'
    """
    algorithm = Algorithm(
        estimator=product(Partial(gae, gae_lambda=gae_lambda), score),
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
        value_target=Partial(lambda_return, gae_lambda=gae_lambda),
        value_coefficient=value_coefficient,
        max_grad_norm=max_grad_norm,
    )
    return Recipe(algorithm, replace(STREAM, num_envs=4, num_steps=32))


def ppo(
    *,
    clip: ArrayLike = 0.2,
    gae_lambda: ArrayLike = 0.95,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 0.99,
    value_coefficient: ArrayLike = 0.5,
    max_grad_norm: ArrayLike = 0.5,
    standardise: bool = False,
    value_clip: ArrayLike | None = None,
    kl_coefficient: ArrayLike | None = None,
    target_kl: ArrayLike | None = None,
) -> Recipe:
    """Proximal policy optimisation: GAE(λ) × clipped ratio, several passes over every batch.

    Features of the paper's code that are not in its formula are off by default, including minibatches
    (`Config.minibatches`).
    Args:
      clip: clipping range ε of the ratio; infinity does not clip.
      gae_lambda: λ of GAE and of the value target, from 0 to 1.
      value_coefficient: weight of the value loss in the loss.
      max_grad_norm: largest norm of the whole gradient.
      standardise: scale advantages to mean 0 and standard deviation 1 in every batch (biased in direction).
      value_clip: largest change of V per batch before its loss is clipped.
      kl_coefficient: weight β of a penalty KL(π_θ̄ ‖ π_θ), the paper's alternative to the clip.
      target_kl: stop updating on a batch when the estimated KL exceeds it.
    Schulman et al. 2017. https://arxiv.org/abs/1707.06347

    >>> from pgjax import hyperparameters
    >>> hyperparameters(ppo(clip=0.1).algorithm)["clip"]
    0.1
    """
    recipe = a2c(
        gae_lambda=gae_lambda,
        learning_rate=learning_rate,
        discount=discount,
        value_coefficient=value_coefficient,
        max_grad_norm=max_grad_norm,
    )
    credit = recipe.algorithm.estimator.credit
    algorithm = recipe.algorithm._replace(
        estimator=product(standardised(credit) if standardise else credit, Partial(clipped_ratio, clip=clip)),
        value_clip=value_clip,
        kl_coefficient=kl_coefficient,
        target_kl=target_kl,
    )
    return Recipe(algorithm, replace(STREAM, num_envs=8, num_steps=32, epochs=10, shuffle="steps"))


def dual_clip(
    *,
    clip: ArrayLike = 0.2,
    dual_clip: ArrayLike = 3.0,
    gae_lambda: ArrayLike = 0.95,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 0.99,
) -> Recipe:
    """PPO with the ratio also bounded for negative advantages: max(min(ρA, clip(ρ)A), cA) where A < 0.

    Args:
      dual_clip: bound c > 1 on the ratio for negative advantages; infinity is PPO.
    Ye et al. 2020. https://arxiv.org/abs/1912.09729
    """
    recipe = ppo(gae_lambda=gae_lambda, learning_rate=learning_rate, discount=discount)
    surrogate = Partial(dual_clipped_ratio, clip=clip, dual_clip=dual_clip)
    estimator = product(recipe.algorithm.estimator.credit, surrogate)
    return recipe._replace(algorithm=recipe.algorithm._replace(estimator=estimator))


def natural(
    *,
    max_kl: ArrayLike = 0.01,
    step_size: ArrayLike = 0.2,
    damping: ArrayLike = 1e-2,
    gae_lambda: ArrayLike = 0.97,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 0.99,
) -> Recipe:
    """Natural policy gradient: GAE(λ) × ratio, a step along F⁻¹∇J, and Adam for the critic. Kakade 2001.

    Args:
      max_kl: largest KL of a step, averaged over environment steps, to second order.
      step_size: bound α on the step along F⁻¹∇J; with infinity every step has the largest KL.
      damping: number added to the diagonal of the Fisher matrix.
    """
    return _with_policy_step(
        Partial(natural_step, max_kl=max_kl, step_size=step_size, damping=damping), gae_lambda, learning_rate, discount
    )


def trpo(
    *,
    max_kl: ArrayLike = 0.01,
    step_size: ArrayLike = 0.2,
    damping: ArrayLike = 1e-2,
    gae_lambda: ArrayLike = 0.97,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 0.99,
) -> Recipe:
    """Trust-region policy optimisation: the natural step, backtracked until KL and surrogate are acceptable.

    Arguments as for `natural`; here `max_kl` is never exceeded. Schulman et al. 2015. https://arxiv.org/abs/1502.05477
    """
    return _with_policy_step(
        Partial(trust_region_step, max_kl=max_kl, step_size=step_size, damping=damping),
        gae_lambda,
        learning_rate,
        discount,
    )


def vtrace_actor_critic(
    *,
    gae_lambda: ArrayLike = 1.0,
    max_rho: ArrayLike = 1.0,
    max_c: ArrayLike = 1.0,
    learning_rate: ArrayLike = 2e-3,
    discount: ArrayLike = 0.99,
    max_grad_norm: ArrayLike = 0.5,
) -> Recipe:
    """V-trace actor-critic (the learner of IMPALA): V-trace × score, two passes over every batch.

    Args:
      gae_lambda: decay of the traces.
      max_rho: clipping threshold ρ̄ of the ratio in the target, which decides what the critic converges to.
      max_c: clipping threshold c̄ of the ratios in the traces, which decides how fast the critic converges.
    Espeholt et al. 2018. https://arxiv.org/abs/1802.01561
    """
    trace_settings = {"gae_lambda": gae_lambda, "max_rho": max_rho, "max_c": max_c}
    recipe = a2c(learning_rate=learning_rate, discount=discount, max_grad_norm=max_grad_norm)
    algorithm = recipe.algorithm._replace(
        estimator=product(Partial(vtrace, **trace_settings), score),
        value_target=Partial(vtrace_target, **trace_settings),
    )
    return Recipe(algorithm, replace(STREAM, epochs=2))


def _with_policy_step(step: Partial, gae_lambda: ArrayLike, learning_rate: ArrayLike, discount: ArrayLike) -> Recipe:
    recipe = a2c(gae_lambda=gae_lambda, learning_rate=learning_rate, discount=discount, max_grad_norm=float("inf"))
    estimator = product(recipe.algorithm.estimator.credit, ratio)
    algorithm = recipe.algorithm._replace(estimator=estimator, policy_step=step)
    return Recipe(algorithm, replace(STREAM, num_envs=8, num_steps=128, epochs=4, minibatches=4, shuffle="steps"))
