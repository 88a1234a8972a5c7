"""Exact policy-gradient methods on discounted tabular problems: values, flows, convergence rates and theorems.

Requires float64: `jax.config.update("jax_enable_x64", True)`, or `with jax.enable_x64(True):` around all calls.
"""

from pgjax.oracle.flows.checked import Checked
from pgjax.oracle.flows.continuous import best_likely_everywhere, half_of_the_best, time_until
from pgjax.oracle.flows.directions import (
    Flow,
    add,
    entropy_gradient,
    escort_gradient,
    escort_policy,
    log_barrier_gradient,
    mirror_descent,
    natural_gradient,
    normalised,
    projected_gradient,
    soft_natural_gradient,
    soft_values,
    softmax_gradient,
)
from pgjax.oracle.flows.generators import bandit, delaying_chain, garnet, gridworld, vanishing_chain
from pgjax.oracle.flows.loop import (
    Curve,
    StepRule,
    decaying,
    fixed,
    growing,
    integrate,
    line_searched,
    moments,
    objective,
)
from pgjax.oracle.flows.mirror_maps import EUCLIDEAN, KL, MirrorMap, simplex_projection
from pgjax.oracle.flows.problems import Discounted, from_mdp, make_discounted, stack, with_horizon
from pgjax.oracle.flows.rates import Kind, Rate, fitted, over_problems
from pgjax.oracle.flows.regularised_theorems import soft_optimum
from pgjax.oracle.flows.theorems import THEOREMS, Theorem, verify
from pgjax.oracle.flows.values import (
    DiscountedValues,
    Optimum,
    discounted_fisher,
    discounted_gradient,
    discounted_objective,
    discounted_values,
    mismatch,
    optimum,
)

__all__ = [
    "EUCLIDEAN",
    "KL",
    "THEOREMS",
    "Checked",
    "Curve",
    "Discounted",
    "DiscountedValues",
    "Flow",
    "Kind",
    "MirrorMap",
    "Optimum",
    "Rate",
    "StepRule",
    "Theorem",
    "add",
    "bandit",
    "best_likely_everywhere",
    "decaying",
    "delaying_chain",
    "discounted_fisher",
    "discounted_gradient",
    "discounted_objective",
    "discounted_values",
    "entropy_gradient",
    "escort_gradient",
    "escort_policy",
    "fitted",
    "fixed",
    "from_mdp",
    "garnet",
    "gridworld",
    "growing",
    "half_of_the_best",
    "integrate",
    "line_searched",
    "log_barrier_gradient",
    "make_discounted",
    "mirror_descent",
    "mismatch",
    "moments",
    "natural_gradient",
    "normalised",
    "objective",
    "optimum",
    "over_problems",
    "projected_gradient",
    "simplex_projection",
    "soft_natural_gradient",
    "soft_optimum",
    "soft_values",
    "softmax_gradient",
    "stack",
    "time_until",
    "vanishing_chain",
    "verify",
    "with_horizon",
]
