"""A reference policy for any method: a penalty on the KL to the parameters that training starts from."""

from typing import Any

from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.estimators.reference_kl import ESTIMATES, reference_kl
from pgjax.types import SettingError

REFERENCE_KLS = tuple(f"{name}_{place}" for place in ("loss", "reward") for name in ESTIMATES)
"""How the KL to the reference policy is estimated, and where it enters."""


def with_reference(recipe: Recipe, name: str, reference_coefficient: ArrayLike, length: Any = None) -> Recipe:
    """The method with a penalty on the KL to a reference policy, β · k(log π_θ/π_ref) per step.

    The reference policy is the one that training starts from, kept in `TrainState.reference`; put other parameters
    there, `trainer.init(…)._replace(reference=params)`, for another. It is the whole agent: with running statistics
    of observations, it goes on with its own.

    Args:
      recipe: any method.
      name: one of REFERENCE_KLS: "k1_reward" penalises the episode's KL(π_θ ‖ π_ref), with its whole gradient;
        "k2_loss" the KL(π_θ ‖ π_ref) at the states of the batch, "k3_loss" KL(π_ref ‖ π_θ) there; "k1_loss" has the
        mean gradient 0 on the policy's own samples (`pgjax.estimators.reference_kl`).
      reference_coefficient: β.
      length: what a loss divides the penalty by, one of `pgjax.estimators.lengths`; default nothing.

    Raises:
      SettingError: for another name.

    >>> from pgjax import hyperparameters, reinforce
    >>> recipe = with_reference(reinforce(), "k1_reward", 0.1)
    >>> hyperparameters(recipe.algorithm)["reference_coefficient"]
    0.1
    """
    if name not in REFERENCE_KLS:
        raise SettingError("reference_kl", name, f"is none of {', '.join(REFERENCE_KLS)}")
    estimate, place = name.split("_")
    in_loss = place == "loss"
    penalty = reference_kl(estimate, reference_coefficient, length if in_loss else None)
    algorithm = recipe.algorithm._replace(
        reference_loss=penalty if in_loss else None, reference_reward=None if in_loss else penalty
    )
    return recipe._replace(algorithm=algorithm)
