"""Methods by name: recipes that combine the parts in `pgjax.estimators`, with their hyperparameters and schedules."""

from pgjax.methods.action_values import all_action_gradient, doubly_robust_is
from pgjax.methods.importance import FORMS, importance_sampling, storm
from pgjax.methods.reference import REFERENCE_KLS, with_reference
from pgjax.methods.reinforce import BASELINES, CREDITS, dice, reinforce, rloo
from pgjax.methods.table import ALGORITHMS
