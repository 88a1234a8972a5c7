"""Methods in which episodes from one reset, or the whole batch, judge each other, and the ratio is clipped.

GRPO and what differs from it by one idea each: the length that divides (Dr. GRPO, DAPO), the clipping range and which
groups count (DAPO), the ratio (GSPO), what is clipped (CISPO), the sampler (`sampler_is`), who judges (REINFORCE++).
An episode is what an answer of a language model is there; `Config.group_size` says how many episodes share a reset.
"""

from dataclasses import replace

import optax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from pgjax.config import Config, Recipe
from pgjax.estimators.baselines import baselined, same_batch_mean, standardised
from pgjax.estimators.clipping import clipped_between, clipped_weight
from pgjax.estimators.groups import dynamically_sampled, group_standardised
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.products import product
from pgjax.estimators.returns import reward_to_go, total_return
from pgjax.estimators.sequence_ratios import clipped_sequence_ratio, clipped_sequence_ratio_per_step
from pgjax.estimators.surrogates import clipped_ratio
from pgjax.methods.reference import with_reference
from pgjax.types import Algorithm, Credit, Surrogate

GROUPS = Config(group_size=4, epochs=4)


def grpo(
    *,
    clip: ArrayLike = 0.2,
    reference_kl: str = "k3_loss",
    reference_coefficient: ArrayLike = 0.04,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """Group-relative policy optimisation: standardised return over own length × clipped ratio, KL to the start.

        (1/G) Σ_i (1/|o_i|) Σ_t [ min(ρ A_i, clip(ρ, 1 ± ε) A_i) − β k3(π_θ, π_ref) ],   A_i = (R_i − mean)/std

    **Biased**: by the standard deviation of the group (another objective), by the own length where lengths vary.

    Args:
      clip: ε.
      reference_kl: a name in REFERENCE_KLS: estimate of the KL to the policy training starts from, and its place.
      reference_coefficient: weight β of the KL to the policy training starts from; 0 for none.
      learning_rate: Adam's.
      discount: γ.
    Shao et al. 2024, eq. 3. https://arxiv.org/abs/2402.03300

    >>> recipe = grpo()
    >>> recipe.config.group_size, recipe.algorithm.reference_loss.reference_coefficient
    (4, 0.04)
    """
    credit = divided(group_standardised, own_length)
    recipe = _groups(credit, Partial(clipped_ratio, clip=clip), learning_rate, discount)
    return with_reference(recipe, reference_kl, reference_coefficient, own_length)


def dr_grpo(*, clip: ArrayLike = 0.2, learning_rate: ArrayLike = 1e-3, discount: ArrayLike = 1.0) -> Recipe:
    """GRPO done right: return minus the group's mean, over a constant length × clipped ratio; no KL.

    At θ = θ̄ its mean is (1 − 1/G) ∇J / T: a scale, nothing else. Liu et al. 2025. https://arxiv.org/abs/2503.20783

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 10.0, 30.0]], group=[0, 0, 1, 1])
    >>> dr_grpo().algorithm.estimator.credit(signals).tolist()
    [[-1.0, 1.0, -10.0, 10.0]]
    """
    credit = divided(baselined(total_return, same_batch_mean), longest_length)
    return _groups(credit, Partial(clipped_ratio, clip=clip), learning_rate, discount)


def dapo(
    *,
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.28,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """DAPO: standardised return over the group's mean length × ratio clipped higher above; dynamic sampling; no KL.

        1/Σ_i |o_i| Σ_i Σ_t min(ρ A_i, clip(ρ, 1 − ε_low, 1 + ε_high) A_i)

    Groups of equal returns are left out of the mean; no others are sampled in their place.

    Args:
      clip_low: how far below 1 the ratio may go, ε_low; 1 and more is no bound.
      clip_high: how far above 1 the ratio may go, ε_high.
      learning_rate: Adam's.
      discount: γ.
    Yu et al. 2025, eq. 8. https://arxiv.org/abs/2503.14476

    >>> from pgjax import hyperparameters
    >>> hyperparameters(dapo().algorithm)["clip_high"]
    0.28
    """
    credit = dynamically_sampled(divided(group_standardised, mean_length))
    surrogate = Partial(clipped_between, clip_low=clip_low, clip_high=clip_high)
    return _groups(credit, surrogate, learning_rate, discount)


def gspo(
    *,
    clip_low: ArrayLike = 3e-4,
    clip_high: ArrayLike = 4e-4,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """Group sequence policy optimisation: standardised return × clipped geometric mean of the episode's ratios.

        (1/G) Σ_i min(s_i A_i, clip(s_i, 1 − ε_low, 1 + ε_high) A_i),   s_i = ρ_{1:T}^{1/|o_i|}

    Arguments as for `dapo`; the ranges are the paper's, for long answers. Zheng et al. 2025.
    https://arxiv.org/abs/2507.18071

    >>> gspo().algorithm.estimator.contribution.args[0].func.__name__
    'clipped_sequence_ratio'
    """
    surrogate = Partial(clipped_sequence_ratio, clip_low=clip_low, clip_high=clip_high)
    return _groups(divided(group_standardised, own_length), surrogate, learning_rate, discount)


def gspo_token(
    *,
    clip_low: ArrayLike = 3e-4,
    clip_high: ArrayLike = 4e-4,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """GSPO in its per-step form, s_t = sg(s_i) π_θ/sg(π_θ): the same gradient for credit that is the same at all steps.

    Arguments as for `gspo`. Zheng et al. 2025, section 4.3. https://arxiv.org/abs/2507.18071

    >>> gspo_token().algorithm.estimator.contribution.args[0].func.__name__
    'clipped_sequence_ratio_per_step'
    """
    surrogate = Partial(clipped_sequence_ratio_per_step, clip_low=clip_low, clip_high=clip_high)
    return _groups(divided(group_standardised, own_length), surrogate, learning_rate, discount)


def cispo(
    *,
    clip_low: ArrayLike = 1.0,
    clip_high: ArrayLike = 0.28,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """CISPO: standardised return over the group's mean length × score, weighted by the clipped ratio, stopped.

        1/Σ_i |o_i| Σ_i Σ_t sg(clip(ρ, 1 − ε_low, 1 + ε_high)) A_i log π_θ

    Arguments as for `dapo`; ε_high is DAPO's 0.28, since the paper gives no number for its own. MiniMax 2025, eq. 4.
    https://arxiv.org/abs/2506.13585

    >>> from pgjax import hyperparameters
    >>> hyperparameters(cispo().algorithm)["clip_low"]  # no lower bound
    1.0
    """
    surrogate = Partial(clipped_weight, clip_low=clip_low, clip_high=clip_high)
    return _groups(divided(group_standardised, mean_length), surrogate, learning_rate, discount)


def sampler_is(
    *,
    max_mismatch: ArrayLike = 2.0,
    clip: ArrayLike = 0.2,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """Dr. GRPO with truncated importance sampling between sampler and learner, where two programs compute one policy.

        sg(min(π_old,learner/π_sampler, C)) · min(ρA, clip(ρ)A),   ρ = π_θ/π_old,learner

    The sampler's log-probability is the one recorded with the batch, `Transition.log_prob`; the learner's is computed
    anew at the same parameters. In pgjax's own rollouts they differ by rounding and the weight is 1 up to it; in a
    batch from elsewhere, given to `pgjax.training.batch.hold`, they may differ by anything. Any method can be so
    corrected: `Algorithm.max_mismatch`.

    Args:
      max_mismatch: the largest weight C of sampler and learner's ratio.
      clip: ε.
      learning_rate: Adam's.
      discount: γ.
    Yao et al. 2025, https://fengyao.notion.site/off-policy-rl

    >>> sampler_is().algorithm.max_mismatch
    2.0
    """
    algorithm, config = dr_grpo(clip=clip, learning_rate=learning_rate, discount=discount)
    return Recipe(algorithm._replace(max_mismatch=max_mismatch), config)


def reinforce_plus_plus(
    *,
    clip: ArrayLike = 0.2,
    reference_kl: str = "k1_reward",
    reference_coefficient: ArrayLike = 0.01,
    learning_rate: ArrayLike = 1e-3,
    discount: ArrayLike = 1.0,
) -> Recipe:
    """REINFORCE++: reward-to-go of r − β k1, standardised over all steps of the batch × clipped ratio; no critic.

    Arguments as for `grpo`. The mean is over the steps of the batch, as the standardisation is. Hu 2025.
    https://arxiv.org/abs/2501.03262

    >>> reinforce_plus_plus().config.mean, reinforce_plus_plus().config.group_size
    ('steps', 1)
    """
    credit = standardised(reward_to_go)
    algorithm, config = _groups(credit, Partial(clipped_ratio, clip=clip), learning_rate, discount)
    recipe = Recipe(algorithm, replace(config, group_size=1, mean="steps"))
    return with_reference(recipe, reference_kl, reference_coefficient)


def _groups(credit: Credit, surrogate: Surrogate, learning_rate: ArrayLike, discount: ArrayLike) -> Recipe:
    algorithm = Algorithm(
        estimator=product(credit, surrogate),
        optimizer=Partial(optax.adam, learning_rate=learning_rate),
        discount=discount,
    )
    return Recipe(algorithm, GROUPS)
