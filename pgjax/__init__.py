"""pgjax: policy gradients in JAX, every estimator a product of small pure functions."""

from pgjax import runtime

runtime.avoid_deadlock()  # before anything makes an array

from pgjax import algorithms, baselines, environments, gradients, oracle, rollout, sweeps
from pgjax.algorithms import ALGORITHMS, BASELINES, CREDITS, Recipe, reinforce
from pgjax.baselines import baselined, standardised
from pgjax.distributions import Categorical, Gaussian, SquashedGaussian
from pgjax.evaluation import evaluate
from pgjax.hyperparameters import check_hyperparameters, hyperparameters, with_hyperparameters
from pgjax.networks import make_agent
from pgjax.recurrence import linear_recurrence
from pgjax.returns import discounted_objective, make_signals, reward_to_go, total_return
from pgjax.runtime import use_cpu_devices
from pgjax.surrogates import product, score, surrogate_loss
from pgjax.sweeps import evaluate_runs, sweep
from pgjax.training import make_trainer, run_updates, train
from pgjax.types import (
    Agent,
    Algorithm,
    Config,
    Environment,
    SettingError,
    Signals,
    Trainer,
    TrainState,
    Transition,
)
