"""Several updates on every batch: the forms of importance sampling, and variance reduction by recursion (STORM)."""

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
"""The forms of importance sampling: which ratios stay, and what they multiply; the last two normalise."""


def importance_sampling(
    form: str,
    baseline: str = "time_step",
    *,
    baseline_constant: ArrayLike = 0.0,
    learning_rate: ArrayLike = 3e-3,
    discount: ArrayLike = 1.0,
    epochs: int = 4,
) -> Recipe:
    """Several updates on every batch, the old trajectories reweighted by one of the FORMS.

    Args:
      form: a name in FORMS.
      baseline: a name in BASELINES that acts on credit; "none" for the self-normalised forms, which carry their own.
      baseline_constant: the number that "constant" subtracts.
      learning_rate: Adam's.
      discount: γ.
      epochs: passes over each batch, a gradient step each.

    Raises:
      SettingError: for unknown names, and a baseline that the form does not admit.

    >>> importance_sampling("first_order").config.epochs
    4
    """
    known("form", form, FORMS)
    credit, surrogate = FORMS[form]
    if form.startswith("weighted"):
        if baseline not in ("none", "time_step"):
            raise SettingError("baseline", baseline, f"does not go with {form}, which normalises over the batch")
        baseline = "none"
    if baseline in CONTROL_VARIATES:
        raise SettingError("baseline", baseline, "is for one update per batch (algorithm reinforce)")
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
    """Variance reduction by recursion (STORM-PG): the last estimate carried on, corrected on the new batch.

        d_k = ĝ(θ_k) + (1 − α) (d_{k−1} − ĝ_w(θ_{k−1}))

    Both on trajectories of θ_k: ĝ_w reweights them to θ_{k−1} by per-decision importance sampling, so the correction
    has mean ∇J(θ_{k−1}) and vanishes against ĝ where the parameters have not moved.

    Args:
      baseline: a name in BASELINES that acts on credit.
      baseline_constant: the number that "constant" subtracts.
      momentum: weight α of the new gradient in the estimate; 1 is the plain gradient.
      learning_rate: Adam's.
      discount: γ.
    Yuan et al. 2020. https://arxiv.org/abs/2003.04302

    >>> recipe = storm(momentum=0.5)  # half of what the last estimate knew is kept
    >>> recipe.algorithm.momentum, recipe.config.epochs
    (0.5, 1)
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
