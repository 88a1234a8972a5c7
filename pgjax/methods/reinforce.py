"""REINFORCE and two variants: groups (RLOO) and all derivatives (DiCE)."""

from dataclasses import replace

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Config, Critic, Recipe
from pgjax.estimators import baselines
from pgjax.estimators.optimal_baselines import optimal_per_parameter, optimal_scalar
from pgjax.estimators.products import product
from pgjax.estimators.returns import discounted_reward, reward_to_go, total_return
from pgjax.estimators.surrogates import prefix_product, score
from pgjax.types import Algorithm, Credit, SettingError

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
"""Baselines by name; the last two act on gradients instead of credit (`pgjax.training.gradients`)."""

CONTROL_VARIATES = {
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
    """REINFORCE, by default with reward-to-go and a baseline:

        ∇J ≈ (1/N) Σ_n Σ_t ∇log π_θ(a_{n,t}|s_{n,t}) (Ψ_{n,t} − b_{n,t}).

    Args:
      credit: a name in CREDITS.
      baseline: a name in BASELINES; "state_value" trains a critic.
      baseline_constant: the number that baseline "constant" subtracts.
      learning_rate: step size of the optimiser, which is Adam.
      discount: discount factor γ, from 0 to 1.
    Williams 1992. https://doi.org/10.1007/BF00992696

    >>> reinforce(baseline="state_value").config.critic
    'state'
    """
    known("credit", credit, CREDITS)
    known("baseline", baseline, BASELINES)
    critic: Critic = "state" if baseline == "state_value" else "none"
    algorithm = Algorithm(
        estimator=product(with_baseline(CREDITS[credit], baseline, baseline_constant), score),
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
        value_target=Partial(reward_to_go) if critic == "state" else None,
        control_variate=CONTROL_VARIATES.get(baseline),
    )
    return Recipe(algorithm, Config(critic=critic))


def rloo(*, learning_rate: ArrayLike = 1e-2, discount: ArrayLike = 1.0) -> Recipe:
    """REINFORCE leave-one-out: total return minus the mean of the others in the group (`Config.group_size`) × score.

    Kool et al. 2019; Ahmadian et al. 2024. https://arxiv.org/abs/2402.14740
    """
    recipe = reinforce("total_return", "leave_one_out", learning_rate=learning_rate, discount=discount)
    return recipe._replace(config=replace(recipe.config, group_size=4))


def dice(*, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0) -> Recipe:
    """DiCE: Σ_t ρ_{1:t} γ^t r_t, differentiated through every ratio, with all derivatives unbiased.

    Its gradient is that of REINFORCE with reward-to-go. Foerster et al. 2018. https://arxiv.org/abs/1802.05098
    """
    recipe = reinforce(baseline="none", learning_rate=learning_rate, discount=discount)
    return recipe._replace(algorithm=recipe.algorithm._replace(estimator=product(discounted_reward, prefix_product)))


def with_baseline(credit: Credit, baseline: str, constant: ArrayLike) -> Credit:
    """Credit minus the baseline of that name; unchanged for a baseline that acts on gradients."""
    b = BASELINES[baseline]
    if baseline == "constant":
        b = Partial(baselines.constant, baseline_constant=constant)
    return baselines.baselined(credit, b) if b else credit


def known(field: str, name: str, table: dict) -> None:
    """Reject a name that is not in a table, listing those that are."""
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")
