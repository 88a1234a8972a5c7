"""Exact values, gradients, and moments of estimators on small tabular problems.

Results come from dynamic programming and from enumerating all trajectories. Agreement to rounding needs float64:
`jax.config.update("jax_enable_x64", True)`, or `with jax.enable_x64(True):` around all calls. A function compiled in
one mode must not be called in the other.
"""

from pgjax.oracle import flows
from pgjax.oracle.bounds import (
    Bounded,
    GradientGaps,
    MeanGradients,
    PerformanceDifference,
    gradient_gap,
    mean_gradients,
    performance_difference,
    policy_distance,
    state_mismatch,
    surrogate_value,
    value_gap,
    worst_case_mdp,
    worst_case_policy,
)
from pgjax.oracle.certificates import (
    ARRAYS,
    Certificate,
    Problem,
    certify,
    default_problems,
    estimator_loss,
    problem,
    torch_gradient,
)
from pgjax.oracle.emphatic_variance import emphatic_law, emphatic_moments
from pgjax.oracle.enumeration import (
    Moments,
    Sampling,
    Trajectories,
    as_signals,
    as_transition,
    count_trajectories,
    enumerate_trajectories,
    mdp_agent,
    moments,
    trajectory_estimates,
    trajectory_probability,
)
from pgjax.oracle.improvement import Improvement, expected_improvement
from pgjax.oracle.lower_bounds import (
    ascend,
    clipped_surrogate,
    largest_return,
    pois_penalty,
    pois_search,
    ratio_surrogate,
    weight_second_moment,
)
from pgjax.oracle.mdp import (
    MDP,
    LogPolicy,
    Values,
    check_logits,
    cross_term,
    exact_fisher,
    exact_gradient,
    exact_hessian,
    exact_values,
    make_mdp,
)
from pgjax.oracle.off_policy_variance import dual_variance, marginal_variance, per_decision_variance, state_ratios
from pgjax.oracle.simulated import environment, tabular_agent
from pgjax.oracle.table import exact_table, table_estimators
from pgjax.oracle.tabular import Tabular, from_gymnax
from pgjax.oracle.updates import (
    Batches,
    Rollouts,
    as_rows,
    columns_of,
    every_replayed_update,
    every_update,
    expected_change,
    keys_of_batches,
    list_batches,
    list_rollouts,
)
