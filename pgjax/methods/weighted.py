"""Methods that weight the score by a function of the advantage: AWR, V-MPO, the delightful policy gradient.

In all recipes `learning_rate` is Adam's, `discount` is γ, and `gae_lambda` is λ of GAE and of the value target.
"""

from dataclasses import replace

from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.estimators.advantages import gae
from pgjax.estimators.baselines import baselined, leave_one_out
from pgjax.estimators.delight import delightful
from pgjax.estimators.exponential_weights import better_half, exponential
from pgjax.estimators.products import product
from pgjax.estimators.returns import reward_to_go
from pgjax.estimators.surrogates import score
from pgjax.methods.actor_critic import STREAM, a2c
from pgjax.methods.reinforce import reinforce
from pgjax.types import Credit


def awr(
    *,
    temperature: ArrayLike = 1.0,
    max_weight: ArrayLike = 20.0,
    gae_lambda: ArrayLike = 0.95,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 0.99,
) -> Recipe:
    """Advantage-weighted regression: min(exp(A/β), ω_max) × score, with A from GAE(λ); several passes over every batch.

    The paper regresses on a replay buffer of many old policies; here each batch is sampled by the current policy.
    Args:
      temperature: divisor β of the advantage; in `delightful` the divisor η in its gate.
      max_weight: largest weight ω_max.
    Peng et al. 2019. https://arxiv.org/abs/1910.00177
    """
    credit = exponential(Partial(gae, gae_lambda=gae_lambda), temperature, max_weight)
    return _regression(credit, gae_lambda, learning_rate, discount, None)


def vmpo(
    *,
    temperature_bound: ArrayLike = 0.1,
    kl_coefficient: ArrayLike = 1.0,
    gae_lambda: ArrayLike = 0.95,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 0.99,
) -> Recipe:
    """V-MPO: softmax of A/η over the better half of the batch × score, with a penalty α KL(π_θ̄ ‖ π_θ).

    α is `kl_coefficient`, and fixed. η minimises its dual on every batch
    (`pgjax.estimators.exponential_weights.better_half`). The paper takes gradient steps on both.
    Args:
      temperature_bound: ε_η, the KL of the weights from uniform ones.
    Song et al. 2020. https://arxiv.org/abs/1909.12238
    """
    credit = better_half(Partial(gae, gae_lambda=gae_lambda), temperature_bound)
    return _regression(credit, gae_lambda, learning_rate, discount, kl_coefficient)


def delightful_policy_gradient(
    *, temperature: ArrayLike = 1.0, learning_rate: ArrayLike = 1e-2, discount: ArrayLike = 1.0
) -> Recipe:
    """REINFORCE with each term multiplied by the gate σ(advantage × surprisal / η), which suppresses unlikely failures.

    Osband 2026. https://arxiv.org/abs/2603.14608
    """
    algorithm, config = reinforce(learning_rate=learning_rate, discount=discount)
    credit = delightful(baselined(reward_to_go, leave_one_out), temperature)
    return Recipe(algorithm._replace(estimator=product(credit, score)), config)


def _regression(
    credit: Credit,
    gae_lambda: ArrayLike,
    learning_rate: ArrayLike,
    discount: ArrayLike,
    kl_coefficient: ArrayLike | None,
) -> Recipe:
    recipe = a2c(gae_lambda=gae_lambda, learning_rate=learning_rate, discount=discount)
    algorithm = recipe.algorithm._replace(estimator=product(credit, score), kl_coefficient=kl_coefficient)
    return Recipe(algorithm, replace(STREAM, num_envs=8, num_steps=32, epochs=4, shuffle="steps"))
