"""Several updates on every batch: forms of importance sampling, and recursive variance reduction (STORM).

In all recipes `learning_rate` is Adam's and `discount` is γ. `baseline` is a name in BASELINES that acts on credit.
"""

from dataclasses import replace

from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.estimators.products import product
from pgjax.estimators.returns import (
    off_policy_reward_to_go,
    reward_to_go,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators.surrogates import ratio, score, stopped_prefix, trajectory_weight
from pgjax.methods.reinforce import CONTROL_VARIATES, known, reinforce, with_baseline
from pgjax.types import Credit, SettingError, Surrogate

FORMS: dict[str, tuple[Credit, Surrogate]] = {
    "trajectory_is": (reward_to_go, trajectory_weight),
    "per_decision_is": (off_policy_reward_to_go, stopped_prefix),
    "prefix_is": (reward_to_go, stopped_prefix),
    "suffix_is": (off_policy_reward_to_go, ratio),
    "first_order": (reward_to_go, ratio),
    "truncated_is": (off_policy_reward_to_go, Partial(stopped_prefix, max_weight=2.0)),
    "weighted_is": (weighted_trajectory, score),
    "weighted_per_decision_is": (weighted_per_decision, score),
}
"""Forms of importance sampling as (credit, surrogate); the last two normalise the weights over the batch."""


def importance_sampling(
    form: str,
    baseline: str = "time_step",
    *,
    baseline_constant: ArrayLike = 0.0,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 1.0,
    epochs: int = 4,
) -> Recipe:
    """Several updates on every batch, whose trajectories are reweighted by one of the FORMS.

    `baseline` is a name in BASELINES other than "optimal" and "optimal_per_parameter"; "constant" subtracts
    `baseline_constant`. "weighted_is" and "weighted_per_decision_is" normalise over the batch instead. They
    accept "none" only, and replace the default by it.
    Args:
      form: a name in FORMS.
      epochs: passes over each batch, with one gradient step each.

    >>> importance_sampling("first_order").config.epochs
    4
    """
    known("form", form, FORMS)
    credit, surrogate = FORMS[form]
    if form.startswith("weighted"):
        if baseline not in ("none", "time_step"):
            raise SettingError("baseline", baseline, f"cannot be combined with {form}, which normalises over the batch")
        baseline = "none"
    if baseline in CONTROL_VARIATES:
        raise SettingError("baseline", baseline, "needs one update per batch (algorithm reinforce)")
    algorithm, config = reinforce(
        baseline=baseline,
        baseline_constant=baseline_constant,
        learning_rate=learning_rate,
        discount=discount,
    )
    psi = with_baseline(credit, baseline, baseline_constant)
    return Recipe(algorithm._replace(estimator=product(psi, surrogate)), replace(config, epochs=epochs))


def storm(
    baseline: str = "time_step",
    *,
    baseline_constant: ArrayLike = 0.0,
    momentum: ArrayLike = 0.3,
    learning_rate: ArrayLike = 5e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """Recursive variance reduction (STORM-PG): the previous estimate, corrected on the new batch:

        d_k = ĝ(θ_k) + (1 − α) (d_{k−1} − ĝ_w(θ_{k−1})).

    Both ĝ are computed on trajectories of θ_k. ĝ_w reweights them to θ_{k−1} by per-decision importance sampling, so it
    has mean ∇J(θ_{k−1}), and equals ĝ where the parameters have not changed.
    Args:
      momentum: weight α of the new gradient in the estimate; 1 is the plain gradient.
    Yuan et al. 2020. https://arxiv.org/abs/2003.04302
    """
    recipe = importance_sampling(
        "per_decision_is",
        baseline,
        baseline_constant=baseline_constant,
        learning_rate=learning_rate,
        discount=discount,
        epochs=1,
    )
    return recipe._replace(algorithm=recipe.algorithm._replace(momentum=momentum))
