"""Methods with group-relative or batch-relative credit and a clipped ratio: GRPO and its variants.

An episode corresponds to an answer of a language model. `Config.group_size` sets how many episodes share a reset. In
all recipes `learning_rate` is Adam's and `discount` is γ.
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
    """Group-relative policy optimisation: standardised return over own length × clipped ratio, with a KL penalty:

        (1/G) Σ_i (1/|o_i|) Σ_t [ min(ρ A_i, clip(ρ, 1 ± ε) A_i) − β k3(π_θ, π_ref) ],   A_i = (R_i − mean)/std.

    **Biased** by the group's standard deviation, which changes the objective, and by own length where lengths vary.
    Args:
      clip: clipping range ε of the ratio; infinity does not clip.
      reference_kl: a name in REFERENCE_KLS: estimate of the KL to the initial policy, and where it enters.
      reference_coefficient: weight β of the KL to the initial policy; 0 for none.
    Shao et al. 2024, eq. 3. https://arxiv.org/abs/2402.03300

    >>> recipe = grpo()
    >>> recipe.config.group_size, recipe.algorithm.reference_loss.reference_coefficient
    (4, 0.04)
    """
    credit = divided(group_standardised, own_length)
    recipe = _groups(credit, Partial(clipped_ratio, clip=clip), learning_rate, discount)
    return with_reference(recipe, reference_kl, reference_coefficient, own_length)


def dr_grpo(*, clip: ArrayLike = 0.2, learning_rate: ArrayLike = 1e-3, discount: ArrayLike = 1.0) -> Recipe:
    """GRPO done right: return minus the group's mean, over a constant length × clipped ratio; no KL penalty.

    At θ = θ̄ its mean is (1 − 1/G) ∇J / T, the gradient up to scale. Liu et al. 2025. https://arxiv.org/abs/2503.20783
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
    """DAPO: standardised return over the group's mean length × ratio with a wider upper clipping range; no KL penalty:

        1/Σ_i |o_i| Σ_i Σ_t min(ρ A_i, clip(ρ, 1 − ε_low, 1 + ε_high) A_i).

    Groups of equal returns are left out of the mean; they are not replaced by new samples.
    Args:
      clip_low: clipping range ε_low of the ratio below 1; 1 and above is no bound.
      clip_high: clipping range ε_high of the ratio above 1.
    Yu et al. 2025, eq. 8. https://arxiv.org/abs/2503.14476
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
    """Group sequence policy optimisation: standardised return × clipped geometric mean of the episode's ratios:

        (1/G) Σ_i min(s_i A_i, clip(s_i, 1 − ε_low, 1 + ε_high) A_i),   s_i = ρ_{1:T}^{1/|o_i|}.

    Arguments as for `dapo`. The default ranges are the paper's, chosen for long answers. Zheng et al. 2025.
    https://arxiv.org/abs/2507.18071
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
    """GSPO per step, s_t = sg(s_i) π_θ/sg(π_θ); the same gradient as `gspo` where credit is constant within an episode.

    Zheng et al. 2025, section 4.3. https://arxiv.org/abs/2507.18071
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
    """CISPO: standardised return over the group's mean length × score, with the clipped ratio as a stopped weight:

        1/Σ_i |o_i| Σ_i Σ_t sg(clip(ρ, 1 − ε_low, 1 + ε_high)) A_i log π_θ.

    ε_low is `clip_low`, whose default 1 sets no lower bound. The paper does not state ε_high, `clip_high`; the default
    0.28 is DAPO's. MiniMax 2025, eq. 4. https://arxiv.org/abs/2506.13585
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
    """Dr. GRPO with truncated importance sampling between sampler and learner, for policies evaluated by two programs:

        sg(min(π_old,learner/π_sampler, C)) · min(ρA, clip(ρ)A),   ρ = π_θ/π_old,learner.

    The sampler's log-probability is `Transition.log_prob`; the learner's is recomputed at the same parameters. In
    rollouts of pgjax the two differ by rounding, so the weight is about 1. In a batch from elsewhere
    (`pgjax.training.batch.hold`) they may differ by any amount. `Algorithm.max_mismatch` adds this correction to any
    method.
    Args:
      max_mismatch: largest weight C of the ratio between learner and sampler.
    Yao et al. 2025, https://fengyao.notion.site/off-policy-rl
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

    Arguments as for `grpo`. The loss is a mean over steps. Hu 2025. https://arxiv.org/abs/2501.03262
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
