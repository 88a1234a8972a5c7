"""Recipes: every method as a few lines over the same parts, and the table of all of them by name."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax import baselines
from pgjax.estimators import product
from pgjax.gradients import optimal_per_parameter, optimal_scalar
from pgjax.returns import reward_to_go, total_return
from pgjax.surrogates import score
from pgjax.types import Algorithm, Config, Credit, SettingError


class Recipe(NamedTuple):
    """A method ready to train: its numbers (a pytree) and its static settings."""

    algorithm: Algorithm
    config: Config


CREDITS: dict[str, Credit] = {"total_return": total_return, "reward_to_go": reward_to_go}

BASELINES: dict[str, baselines.Baseline | None] = {
    "none": None,
    "constant": baselines.constant,
    "same_batch_mean": baselines.same_batch_mean,
    "leave_one_out": baselines.leave_one_out,
    "time_step": baselines.time_step,
    "state_value": baselines.state_value,
    "optimal": None,
    "optimal_per_parameter": None,
}
"""Baselines by name; the last two act on gradients, not on credit (`pgjax.gradients`)."""

_CONTROL_VARIATES = {
    "optimal": Partial(optimal_scalar),
    "optimal_per_parameter": Partial(optimal_per_parameter),
}


def reinforce(
    credit: str = "reward_to_go",
    baseline: str = "leave_one_out",
    *,
    baseline_constant: ArrayLike = 0.0,
    learning_rate: ArrayLike = 1e-2,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """REINFORCE, with causality and a baseline unless told otherwise.

        ∇J ≈ (1/N) Σ_n Σ_t ∇log π_θ(a_{n,t}|s_{n,t}) (Ψ_{n,t} − b_{n,t})

    Args:
      credit: a name in CREDITS.
      baseline: a name in BASELINES; "state_value" trains a critic.
      baseline_constant: the number that "constant" subtracts.
      learning_rate: Adam's.
      discount: γ.

    Raises:
      SettingError: for a name that is in neither table.
    Williams 1992. https://doi.org/10.1007/BF00992696

    >>> reinforce(baseline="state_value").config.critic
    True
    """
    _known("credit", credit, CREDITS)
    _known("baseline", baseline, BASELINES)
    psi, b = CREDITS[credit], BASELINES[baseline]
    if baseline == "constant":
        b = Partial(baselines.constant, baseline_constant=baseline_constant)
    critic = baseline == "state_value"
    algorithm = Algorithm(
        estimator=product(baselines.baselined(psi, b) if b else psi, score),
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
        value_target=Partial(reward_to_go) if critic else None,
        control_variate=_CONTROL_VARIATES.get(baseline),
    )
    return Recipe(algorithm, Config(critic=critic))


ALGORITHMS: dict[str, Callable[..., Recipe]] = {"reinforce": reinforce}
"""Every method by name."""


def _known(field: str, name: str, table: dict) -> None:
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")
