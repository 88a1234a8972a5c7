"""pgjax: policy gradients in JAX, with estimators as products of small pure functions."""

from typing import TYPE_CHECKING, Any

from pgjax import former_names
from pgjax.engine import startup

former_names.install()
startup.avoid_deadlock()  # must run before any array is created

from pgjax import environments, methods, oracle, population, pretrained, spaces, sweeps
from pgjax import methods as algorithms
from pgjax.config import Config, Recipe
from pgjax.engine.startup import use_cpu_devices
from pgjax.estimators import all_action, baselines, doubly_robust, importance, product, steps, value_estimates
from pgjax.estimators.advantages import action_advantage, gae, lambda_return, td_error, vtrace, vtrace_target
from pgjax.estimators.baselines import baselined, standardised
from pgjax.estimators.clipping import clipped_between, clipped_weight, dual_clipped_ratio
from pgjax.estimators.contracts import per_step, per_trajectory, ratio_free
from pgjax.estimators.delight import delightful
from pgjax.estimators.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.estimators.exponential_weights import better_half, exponential
from pgjax.estimators.groups import dynamically_sampled, group_standardised
from pgjax.estimators.joint import Joint, MultiCategorical
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.open_boxes import OpenGaussian, OpenSquashedGaussian
from pgjax.estimators.recurrence import linear_recurrence
from pgjax.estimators.returns import (
    discounted_objective,
    discounted_reward,
    make_signals,
    off_policy_reward_to_go,
    reward_to_go,
    total_return,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators.sequence_ratios import clipped_sequence_ratio, clipped_sequence_ratio_per_step
from pgjax.estimators.surrogates import (
    clipped_ratio,
    prefix_product,
    ratio,
    score,
    stopped_prefix,
    surrogate_loss,
    trajectory_weight,
)
from pgjax.estimators.value_estimates import VALUE_ESTIMATES, ValueEstimate
from pgjax.methods import ALGORITHMS, BASELINES, CREDITS, FORMS, importance_sampling, reinforce
from pgjax.methods.actor_critic import a2c, natural, ppo, trpo, vtrace_actor_critic
from pgjax.methods.hyperparameters import check_hyperparameters, hyperparameters, with_hyperparameters
from pgjax.methods.optimizers import with_optimizer
from pgjax.methods.reference import with_reference
from pgjax.methods.schedules import scheduled
from pgjax.oracle.certificates import certify
from pgjax.policies.build import from_networks
from pgjax.policies.networks import make_agent
from pgjax.policies.normalisation import normalise_observations
from pgjax.pretrained import load_policy
from pgjax.sweeps import evaluate_runs, sweep
from pgjax.training import collect, gradients, learn, make_trainer, rollout, run_updates, train
from pgjax.training import monitors as diagnostics
from pgjax.training.evaluation import evaluate
from pgjax.training.optimizer import elementwise
from pgjax.types import Agent, Algorithm, Environment, SettingError, Signals, Trainer, TrainState, Transition

if TYPE_CHECKING:
    from pgjax.runs.record.files import load_run


def __getattr__(name: str) -> Any:
    """Import `load_run` on first use, because it imports checkpoints and all settings."""
    if name == "load_run":
        from pgjax.runs.record.files import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
