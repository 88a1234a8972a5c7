"""Recipes by name, each a few lines over the parts in `pgjax.estimators`; their hyperparameters and schedules."""

from pgjax.methods.table import (
    ALGORITHMS,
    BASELINES,
    CREDITS,
    FORMS,
    all_action_gradient,
    dice,
    doubly_robust_is,
    importance_sampling,
    reinforce,
    rloo,
    storm,
)
