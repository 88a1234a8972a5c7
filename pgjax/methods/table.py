"""Table of methods: every recipe by name, as the command line offers them."""

from collections.abc import Callable
from functools import partial

from pgjax.config import Recipe
from pgjax.methods.action_values import all_action_gradient, doubly_robust_is
from pgjax.methods.actor_critic import a2c, dual_clip, natural, ppo, trpo, vtrace_actor_critic
from pgjax.methods.groups import cispo, dapo, dr_grpo, grpo, gspo, gspo_token, reinforce_plus_plus, sampler_is
from pgjax.methods.importance import FORMS, importance_sampling, storm
from pgjax.methods.reinforce import dice, reinforce, rloo
from pgjax.methods.weighted import awr, delightful_policy_gradient, vmpo

ALGORITHMS: dict[str, Callable[..., Recipe]] = {
    "reinforce": reinforce,
    **{form: partial(importance_sampling, form) for form in FORMS},
    "doubly_robust": doubly_robust_is,
    "all_action": all_action_gradient,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "cispo": cispo,
    "sampler_is": sampler_is,
    "reinforce_pp": reinforce_plus_plus,
    "delightful": delightful_policy_gradient,
    "dice": dice,
    "storm": storm,
    "a2c": a2c,
    "ppo": ppo,
    "dual_clip": dual_clip,
    "awr": awr,
    "vmpo": vmpo,
    "npg": natural,
    "trpo": trpo,
    "vtrace": vtrace_actor_critic,
}
"""Recipes by the name of the method."""
