"""The table of methods: every recipe by name. The command line offers what stands here."""

from collections.abc import Callable
from functools import partial

from pgjax.config import Recipe
from pgjax.methods.action_values import all_action_gradient, doubly_robust_is
from pgjax.methods.actor_critic import a2c, natural, ppo, trpo, vtrace_actor_critic
from pgjax.methods.importance import FORMS, importance_sampling, storm
from pgjax.methods.reinforce import dice, reinforce, rloo

ALGORITHMS: dict[str, Callable[..., Recipe]] = {
    "reinforce": reinforce,
    **{form: partial(importance_sampling, form) for form in FORMS},
    "doubly_robust": doubly_robust_is,
    "all_action": all_action_gradient,
    "rloo": rloo,
    "dice": dice,
    "storm": storm,
    "a2c": a2c,
    "ppo": ppo,
    "npg": natural,
    "trpo": trpo,
    "vtrace": vtrace_actor_critic,
}
"""Every method by name."""
