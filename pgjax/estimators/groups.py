"""Groups: trajectories from one reset judge each other. Their spread, GRPO's credit, and dynamic sampling.

Groups may hold any number of trajectories; of one alone nothing can be said, and its credit is 0. A batch without
groups is one group.
"""

from jax import Array
from jax.tree_util import Partial

from pgjax.estimators.contracts import of_its_parts, ratio_free
from pgjax.estimators.reductions import Spread, batch_spread, batch_sum, group_spread, quotient
from pgjax.estimators.returns import total_return
from pgjax.types import Credit, Signals, as_partial


def own_spread(signals: Signals, x: Array, there: Array) -> Spread:
    """The spread over each trajectory's own group of what is `there` (1, else 0); without groups over the batch.

    >>> import jax.numpy as jnp
    >>> from pgjax import make_signals
    >>> x = jnp.array([[1.0, 3.0, 10.0]])
    >>> own_spread(make_signals(x, group=[0, 0, 1]), x, jnp.ones((1, 3))).mean.tolist()
    [[2.0, 2.0, 10.0]]
    """
    if signals.group is None:
        return batch_spread(x, there)
    return group_spread(x, there, signals.group[0])


@ratio_free
def group_standardised(signals: Signals) -> Array:
    """GRPO's credit without length: (R_n − mean) / (std + 1e-8) over the trajectory's group (or batch), population std.

    0 where all returns of the group are equal up to rounding.

    **Biased** in scale and direction: each group divides by its own spread. For rewards 0 and 1 with success
    probability p and groups of G, the mean gradient is w_G(p) ∇p,

        w_G(p) = E[√(k (G − k))] / (G p (1 − p)),   k ~ Binomial(G, p)

    1 for G = 2, 1/√(p (1 − p)) as G → ∞, where the objective becomes 2 arcsin √p. Shao et al. 2024.
    https://arxiv.org/abs/2402.03300

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 10.0, 30.0]], group=[0, 0, 1, 1])
    >>> [round(x, 3) for x in group_standardised(signals)[0].tolist()]  # groups of very different returns weigh alike
    [-1.0, 1.0, -1.0, 1.0]
    """
    total = total_return(signals)
    return own_spread(signals, total, signals.mask[:1]).standardised(total, floor=1e-8)


def dynamically_sampled(credit: Credit) -> Partial:
    """Leave out groups whose returns are all equal: Ψ ← Ψ · N / N_kept on trajectories of the others, 0 on theirs.

    Of those groups a credit relative to the group is 0 anyway, so that the mean over the batch becomes one over the
    groups that are kept. DAPO samples further prompts instead, until the batch is full; with K groups, of which each
    is kept with probability p, its mean is 1/p times that without, and here (1 − (1 − p)^K)/p times. The direction
    does not change. Yu et al. 2025. https://arxiv.org/abs/2503.14476

    >>> from pgjax import make_signals
    >>> signals = make_signals([[1.0, 3.0, 5.0, 5.0]], group=[0, 0, 1, 1])
    >>> [round(x, 3) for x in dynamically_sampled(group_standardised)(signals)[0].tolist()]  # half is kept
    [-2.0, 2.0, 0.0, 0.0]
    """
    return Partial(_dynamically_sampled, as_partial(credit))


@of_its_parts
def _dynamically_sampled(credit: Credit, signals: Signals) -> Array:
    there = signals.mask[:1]
    total = total_return(signals)[:1]
    kept = there * (own_spread(signals, total, there).std() > 0)
    return credit(signals) * kept * quotient(batch_sum(there), batch_sum(kept))
