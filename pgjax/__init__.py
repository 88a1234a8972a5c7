"""Policy gradients in JAX: every estimator is a product of small pure functions.

Arrays are time-major: [T, N], T steps of N trajectories.

**Train and evaluate**: make an environment with `pgjax.environments.make`, an agent with `pgjax.make_agent`, a recipe
with `pgjax.reinforce`, `pgjax.ppo` or another of `pgjax.methods`, and a trainer with `pgjax.make_trainer`.
`pgjax.train` trains one seed, `pgjax.sweep` many seeds and settings in one call. `pgjax.evaluate` and
`pgjax.evaluate_runs` measure returns.

**Load**: `pgjax.load_policy` returns a trained policy of the package, `pgjax.load_run` one from a run directory.

**Check**: `pgjax.certify` reports what a loss estimates, `pgjax.oracle` has exact values, gradients, biases and
variances of small problems, `pgjax.testing` has assertions for test suites.

**Write an estimator**: `pgjax.make_signals`, credits such as `pgjax.reward_to_go` and `pgjax.gae`, surrogates such as
`pgjax.score` and `pgjax.clipped_ratio`, and `pgjax.product`, which joins them; `pgjax.estimators` has all of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pgjax import former_names
from pgjax.engine import startup

former_names.install()
startup.avoid_deadlock()  # must run before any array is created

from pgjax import (
    environments,
    estimators,
    methods,
    oracle,
    policies,
    population,
    pretrained,
    spaces,
    sweeps,
    testing,
    training,
    types,
)
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
from pgjax.release import VERSION as __version__
from pgjax.sweeps import evaluate_runs, sweep
from pgjax.training import collect, gradients, learn, make_trainer, rollout, run_updates, train
from pgjax.training import monitors as diagnostics
from pgjax.training.evaluation import evaluate
from pgjax.training.optimizer import elementwise
from pgjax.types import Agent, Algorithm, Environment, SettingError, Signals, Trainer, TrainState, Transition

if TYPE_CHECKING:
    from pgjax.runs.record.files import TrainedRun

__all__ = [  # noqa: RUF022 (by topic, the order of the reference)
    # train and evaluate
    "environments",
    "make_agent",
    "from_networks",
    "normalise_observations",
    "policies",
    "make_trainer",
    "train",
    "run_updates",
    "collect",
    "learn",
    "training",
    "rollout",
    "gradients",
    "diagnostics",
    "evaluate",
    "sweep",
    "sweeps",
    "evaluate_runs",
    "population",
    "use_cpu_devices",
    # load
    "load_policy",
    "pretrained",
    "load_run",
    # check
    "certify",
    "oracle",
    "testing",
    # methods
    "methods",
    "reinforce",
    "importance_sampling",
    "a2c",
    "ppo",
    "vtrace_actor_critic",
    "natural",
    "trpo",
    "ALGORITHMS",
    "CREDITS",
    "BASELINES",
    "FORMS",
    "hyperparameters",
    "with_hyperparameters",
    "check_hyperparameters",
    "scheduled",
    "with_optimizer",
    "with_reference",
    "elementwise",
    # estimators
    "estimators",
    "make_signals",
    "total_return",
    "reward_to_go",
    "off_policy_reward_to_go",
    "weighted_trajectory",
    "weighted_per_decision",
    "discounted_reward",
    "discounted_objective",
    "td_error",
    "gae",
    "action_advantage",
    "lambda_return",
    "vtrace",
    "vtrace_target",
    "baselined",
    "standardised",
    "group_standardised",
    "dynamically_sampled",
    "better_half",
    "exponential",
    "baselines",
    "score",
    "ratio",
    "clipped_ratio",
    "dual_clipped_ratio",
    "prefix_product",
    "stopped_prefix",
    "trajectory_weight",
    "clipped_sequence_ratio",
    "clipped_sequence_ratio_per_step",
    "delightful",
    "clipped_between",
    "clipped_weight",
    "own_length",
    "mean_length",
    "longest_length",
    "divided",
    "importance",
    "product",
    "all_action",
    "doubly_robust",
    "surrogate_loss",
    "per_step",
    "per_trajectory",
    "ratio_free",
    "linear_recurrence",
    "steps",
    "VALUE_ESTIMATES",
    "ValueEstimate",
    "value_estimates",
    # distributions
    "Categorical",
    "MultiCategorical",
    "Gaussian",
    "SquashedGaussian",
    "OpenGaussian",
    "OpenSquashedGaussian",
    "Joint",
    "spaces",
    # records
    "Config",
    "Recipe",
    "Agent",
    "Algorithm",
    "Environment",
    "Signals",
    "Trainer",
    "TrainState",
    "Transition",
    "SettingError",
    "types",
]


def load_run(path: str | Path, *, seed: int | None = None, best: bool = False) -> "TrainedRun":
    """Read a run directory back, finished or not: its setup, and the parameters of one seed or of all (axis 0).

        setup, params = pgjax.load_run("runs/CartPole-v1-reinforce-1", seed=3)
        returns = pgjax.evaluate(setup.environment, setup.agent, params, jax.random.key(0), episodes=64, greedy=True)

    Args:
      seed: whose parameters; default all, in the order of the seeds in `config.toml`.
      best: read the best checkpoint instead of the newest: by the mean greedy return where the run was evaluated while
        it trained, else by the mean training return.
    """
    from pgjax.runs.record import files  # with it come checkpoints and all settings, which `import pgjax` does without

    return files.load_run(path, seed=seed, best=best)
