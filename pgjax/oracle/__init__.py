"""Exact answers on small tabular problems: values, gradients, and the mean and covariance of any estimator.

Everything follows from two things: dynamic programming over the tables, and the list of all trajectories. Run it in
float64 (`with jax.enable_x64(True):`) to see agreement to rounding.
"""

from pgjax.oracle.enumeration import (
    Moments,
    Trajectories,
    as_signals,
    as_transition,
    batch_estimates,
    count_trajectories,
    enumerate_trajectories,
    mdp_agent,
    moments,
    trajectory_probability,
)
from pgjax.oracle.mdp import MDP, LogPolicy, Values, exact_gradient, exact_values, make_mdp
