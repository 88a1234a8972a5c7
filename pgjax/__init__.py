"""pgjax: policy gradients in JAX, every estimator a product of small pure functions."""

from pgjax import runtime

runtime.avoid_deadlock()  # before anything makes an array

from pgjax import (
    algorithms,
    baselines,
    diagnostics,
    environments,
    gradients,
    importance,
    oracle,
    rollout,
    steps,
    sweeps,
    value_estimates,
)
from pgjax.actor_critics import a2c, natural, ppo, trpo, vtrace_actor_critic
from pgjax.advantages import action_advantage, gae, lambda_return, td_error, vtrace, vtrace_target
from pgjax.agents import from_networks
from pgjax.algorithms import ALGORITHMS, BASELINES, CREDITS, FORMS, importance_sampling, reinforce
from pgjax.baselines import baselined, standardised
from pgjax.config import Config, Recipe
from pgjax.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.estimators import all_action, doubly_robust, product
from pgjax.evaluation import evaluate
from pgjax.hyperparameters import check_hyperparameters, hyperparameters, with_hyperparameters
from pgjax.networks import make_agent
from pgjax.normalisation import normalise_observations
from pgjax.recurrence import linear_recurrence
from pgjax.returns import (
    discounted_objective,
    discounted_reward,
    make_signals,
    off_policy_reward_to_go,
    reward_to_go,
    total_return,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.runtime import use_cpu_devices
from pgjax.surrogates import (
    clipped_ratio,
    prefix_product,
    ratio,
    score,
    stopped_prefix,
    surrogate_loss,
    trajectory_weight,
)
from pgjax.sweeps import evaluate_runs, sweep
from pgjax.training import make_trainer, run_updates, train
from pgjax.types import Agent, Algorithm, Environment, SettingError, Signals, Trainer, TrainState, Transition
from pgjax.value_estimates import VALUE_ESTIMATES, ValueEstimate
