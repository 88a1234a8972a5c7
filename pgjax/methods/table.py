"""Recipes: every method as a few lines over the same parts, and the table of all of them by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Config, Critic, Recipe
from pgjax.estimators import baselines
from pgjax.estimators.optimal_baselines import optimal_per_parameter, optimal_scalar
from pgjax.estimators.products import all_action, doubly_robust, product
from pgjax.estimators.returns import (
    discounted_reward,
    off_policy_reward_to_go,
    reward_to_go,
    total_return,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators.surrogates import prefix_product, ratio, score, stopped_prefix, trajectory_weight
from pgjax.methods.actor_critic import a2c, natural, ppo, trpo, vtrace_actor_critic
from pgjax.types import Algorithm, Credit, Estimator, SettingError, Surrogate

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
"""Baselines by name; the last two act on gradients, not on credit (`pgjax.training.gradients`)."""

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
    'state'
    """
    _known("credit", credit, CREDITS)
    _known("baseline", baseline, BASELINES)
    critic: Critic = "state" if baseline == "state_value" else "none"
    algorithm = Algorithm(
        estimator=product(_with_baseline(CREDITS[credit], baseline, baseline_constant), score),
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
        value_target=Partial(reward_to_go) if critic == "state" else None,
        control_variate=_CONTROL_VARIATES.get(baseline),
    )
    return Recipe(algorithm, Config(critic=critic))


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
    _known("form", form, FORMS)
    credit, surrogate = FORMS[form]
    if form.startswith("weighted"):
        if baseline not in ("none", "time_step"):
            raise SettingError("baseline", baseline, f"does not go with {form}, which normalises over the batch")
        baseline = "none"
    if baseline in _CONTROL_VARIATES:
        raise SettingError("baseline", baseline, "is for one update per batch (algorithm reinforce)")
    algorithm, config = reinforce(
        baseline=baseline,
        baseline_constant=baseline_constant,
        learning_rate=learning_rate,
        discount=discount,
    )
    psi = _with_baseline(credit, baseline, baseline_constant)
    return Recipe(algorithm._replace(estimator=product(psi, surrogate)), replace(config, epochs=epochs))


def doubly_robust_is(
    *, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0, epochs: int = 4, value_coefficient: ArrayLike = 0.5
) -> Recipe:
    """Per-decision importance sampling with a learned Q(s, a) as control variate, several updates per batch.

    The critic acts as it was before it saw the batch, so the first update is unbiased however bad it is.
    `pgjax.estimators.doubly_robust` has the formula.

    >>> recipe = doubly_robust_is()
    >>> recipe.config.critic, recipe.config.epochs  # needs make_agent(…, critic="action")
    ('action', 4)
    """
    return _with_action_values(doubly_robust(), learning_rate, discount, epochs, value_coefficient)


def all_action_gradient(
    *, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0, value_coefficient: ArrayLike = 0.5
) -> Recipe:
    """The policy gradient summed over actions, Σ_t Σ_a ∇π(a|s_t) Q(s_t, a), with a learned Q. As good as its critic.

    >>> recipe = all_action_gradient()
    >>> recipe.config.critic, recipe.config.epochs  # no ratios: one update per batch
    ('action', 1)
    """
    return _with_action_values(all_action(), learning_rate, discount, 1, value_coefficient)


def rloo(*, learning_rate: ArrayLike = 1e-2, discount: ArrayLike = 1.0) -> Recipe:
    """Leave-one-out over groups: trajectories from one reset judge each other, total return × score.

    `Config.group_size` says how many. Kool et al. 2019; Ahmadian et al. 2024. https://arxiv.org/abs/2402.14740

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 10.0, 30.0]], group=[0, 0, 1, 1])
    >>> rloo().algorithm.estimator.credit(signals).tolist()
    [[-2.0, 2.0, -20.0, 20.0]]
    """
    recipe = reinforce("total_return", "leave_one_out", learning_rate=learning_rate, discount=discount)
    return recipe._replace(config=replace(recipe.config, group_size=4))


def dice(*, learning_rate: ArrayLike = 3e-3, discount: ArrayLike = 1.0) -> Recipe:
    """DiCE: the differentiated product Σ_t ρ_{1:t} γ^t r_t over the recorded log-probability; all derivatives right.

    Its gradient is reward-to-go REINFORCE's; so are, in expectation, its Hessian and the rest.
    Foerster et al. 2018. https://arxiv.org/abs/1802.05098

    >>> import jax
    >>> from pgjax import make_signals
    >>> estimator, signals = dice().algorithm.estimator, make_signals([[1.0], [2.0]])
    >>> surrogate = lambda x: estimator.contribution(estimator.credit(signals), signals, None, x).sum()
    >>> jax.grad(surrogate)(signals.log_ratio).T.tolist()  # in front of each ∇log π: the reward-to-go
    [[3.0, 2.0]]
    """
    recipe = reinforce(baseline="none", learning_rate=learning_rate, discount=discount)
    return recipe._replace(algorithm=recipe.algorithm._replace(estimator=product(discounted_reward, prefix_product)))


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
      momentum: α; 1 is the plain gradient.
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


ALGORITHMS: dict[str, Callable[..., Recipe]] = {
    "reinforce": reinforce,
    **{form: partial(importance_sampling, form) for form in FORMS},
    "doubly_robust": doubly_robust_is,
    "all_action": all_action_gradient,
    "rloo": rloo,
    "dice": dice,
    "storm": storm,
    "a2c": a2c,
    "ppo": ppo,
    "npg": natural,
    "trpo": trpo,
    "vtrace": vtrace_actor_critic,
}
"""Every method by name."""


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


def _with_baseline(credit: Credit, baseline: str, constant: ArrayLike) -> Credit:
    b = BASELINES[baseline]
    if baseline == "constant":
        b = Partial(baselines.constant, baseline_constant=constant)
    return baselines.baselined(credit, b) if b else credit


def _known(field: str, name: str, table: dict) -> None:
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")
