"""Exact answers on small tabular problems: values, gradients, and the mean and covariance of any estimator.

Everything follows from two things: dynamic programming over the tables, and the list of all trajectories. Run it in
float64 (`with jax.enable_x64(True):`) to see agreement to rounding.
"""

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
from pgjax.oracle.mdp import MDP, LogPolicy, Values, check_logits, exact_gradient, exact_values, make_mdp
from pgjax.oracle.table import exact_table
