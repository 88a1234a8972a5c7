"""Groups of trajectories that share a reset: statistics within a group, GRPO's credit, and dynamic sampling.

Groups may have any size; the credit of a group of one is 0. A batch without groups counts as one group.
"""

from jax import Array
from jax.tree_util import Partial

from pgjax.estimators.contracts import of_its_parts, ratio_free
from pgjax.estimators.reductions import Spread, batch_spread, batch_sum, group_spread, quotient
from pgjax.estimators.returns import total_return
from pgjax.types import Credit, Signals, as_partial


def own_spread(signals: Signals, x: Array, there: Array) -> Spread:
    """Mean and spread over each trajectory's group (or the batch, without groups), of entries where `there` is 1."""
    if signals.group is None:
        return batch_spread(x, there)
    return group_spread(x, there, signals.group[0])


@ratio_free
def group_standardised(signals: Signals) -> Array:
    """GRPO's credit without length: (R_n − mean) / (std + 1e-8) over the trajectory's group, with the population std.

    The credit is 0 where all returns of the group are equal up to rounding. **Biased** in scale and direction, because
    each group is divided by its own standard deviation. For rewards 0 and 1 with success probability p, and groups of
    G, the mean gradient is w_G(p) ∇p:

        w_G(p) = E[√(k (G − k))] / (G p (1 − p)),   k ~ Binomial(G, p).

    The factor is 1 for G = 2 and tends to 1/√(p (1 − p)) as G → ∞, where the objective is 2 arcsin √p. Shao et al.
    2024. https://arxiv.org/abs/2402.03300

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 10.0, 30.0]], group=[0, 0, 1, 1])
    >>> [round(x, 3) for x in group_standardised(signals)[0].tolist()]
    [-1.0, 1.0, -1.0, 1.0]
    """
    total = total_return(signals)
    return own_spread(signals, total, signals.mask[:1]).standardised(total, floor=1e-8)


def dynamically_sampled(credit: Credit) -> Partial:
    """Credit averaged over the groups whose returns differ: Ψ · N / N_kept on their trajectories, 0 on the others.

    In a group of equal returns the group-relative credit is 0 already, so only the normalisation changes. DAPO instead
    samples more prompts until the batch is full. With K groups, each kept with probability p, DAPO scales the mean
    gradient by 1/p and this credit by (1 − (1 − p)^K)/p; the direction is unchanged. Yu et al. 2025.
    https://arxiv.org/abs/2503.14476

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 5.0, 5.0]], group=[0, 0, 1, 1])
    >>> [round(x, 3) for x in dynamically_sampled(group_standardised)(signals)[0].tolist()]
    [-2.0, 2.0, 0.0, 0.0]
    """
    return Partial(_dynamically_sampled, as_partial(credit))


@of_its_parts
def _dynamically_sampled(credit: Credit, signals: Signals) -> Array:
    there = signals.mask[:1]
    total = total_return(signals)[:1]
    kept = there * (own_spread(signals, total, there).std() > 0)
    return credit(signals) * kept * quotient(batch_sum(there), batch_sum(kept))
