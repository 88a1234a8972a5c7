"""KL penalty to a reference policy, the initial parameters of training, for any method."""

from typing import Any

from jax.typing import ArrayLike

from pgjax.config import Recipe
from pgjax.estimators.reference_kl import ESTIMATES, reference_kl
from pgjax.types import SettingError

REFERENCE_KLS = tuple(f"{name}_{place}" for place in ("loss", "reward") for name in ESTIMATES)
"""Names of the penalty: the estimate of the KL, and whether it enters the loss or the reward."""


def with_reference(recipe: Recipe, name: str, reference_coefficient: ArrayLike, length: Any = None) -> Recipe:
    """Add a penalty β · k(log π_θ/π_ref) per step on the KL to a reference policy; β is `reference_coefficient`.

    The reference policy is the initial one, kept in `TrainState.reference`. For another one, use
    `trainer.init(…)._replace(reference=params)`. It is the whole agent, with its own running statistics of
    observations. `length` is the divisor of the penalty in a loss, one of `pgjax.estimators.lengths`; default none.
    Of the names in REFERENCE_KLS, "k1_reward" penalises the episode's KL(π_θ ‖ π_ref), with its full gradient;
    "k2_loss" penalises KL(π_θ ‖ π_ref) at the states of the batch, and "k3_loss" KL(π_ref ‖ π_θ) there. The mean
    gradient of "k1_loss" is 0 on the policy's own samples (`pgjax.estimators.reference_kl`).

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
