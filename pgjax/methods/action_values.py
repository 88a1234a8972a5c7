"""Methods with a learned Q(s, a): doubly robust importance sampling, and the gradient summed over actions."""

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Config, Recipe
from pgjax.estimators.products import all_action, doubly_robust
from pgjax.estimators.returns import reward_to_go
from pgjax.types import Algorithm, Estimator


def doubly_robust_is(
    *, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0, epochs: int = 4, value_coefficient: ArrayLike = 0.5
) -> Recipe:
    """Per-decision importance sampling with a learned Q(s, a) as control variate, several updates per batch.

    The critic that is used was fitted before the batch was sampled, so the first update is unbiased for any critic.
    Needs an agent with `critic="action"`. The formula is in `pgjax.estimators.doubly_robust`.
    """
    return _with_action_values(doubly_robust(), learning_rate, discount, epochs, value_coefficient)


def all_action_gradient(
    *, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0, value_coefficient: ArrayLike = 0.5
) -> Recipe:
    """Policy gradient summed over actions, Σ_t Σ_a ∇π(a|s_t) Q(s_t, a), with a learned Q.

    Its bias is that of the critic. Needs an agent with `critic="action"`. Without ratios, each batch gets one update.
    """
    return _with_action_values(all_action(), learning_rate, discount, 1, value_coefficient)


def _with_action_values(
    estimator: Estimator, learning_rate: ArrayLike, discount: ArrayLike, epochs: int, value_coefficient: ArrayLike
) -> Recipe:
    algorithm = Algorithm(
        estimator=estimator,
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
        value_target=Partial(reward_to_go),
        value_coefficient=value_coefficient,
    )
    return Recipe(algorithm, Config(critic="action", epochs=epochs))
