"""Which devices may share one batch's environments.

`pgjax.engine.devices` lays devices out in a mesh (seed, env), `pgjax.sweeps` maps training over it, and everything that
is summed over a batch goes through `pgjax.estimators.reductions`, which adds up the devices' parts along "env".
"""

import math

from pgjax.config import Config
from pgjax.estimators.contracts import PER_TRAJECTORY, promises
from pgjax.training.checks import steps_per_update
from pgjax.types import Algorithm, Trainer

WORTH_SHARING = 1 << 12
"""Steps per gradient step from which on devices that share them gain more than their communication costs."""


def shares(trainer: Trainer, algorithm: Algorithm) -> int:
    """Among at most how many devices one batch's environments can be shared; any divisor serves too.

    1 where something looks at the whole batch: optimal baselines, a policy step, probes of single trajectories, and a
    surrogate that is not declared `per_trajectory`.
    """
    config = trainer.config
    whole = algorithm.control_variate is not None or algorithm.policy_step is not None
    alone = config.accumulate > 1 or config.batch_steps or config.diagnostics or reused(config)
    if whole or alone or not promises(algorithm.estimator.contribution, PER_TRAJECTORY):
        return 1
    apart = config.minibatches
    if config.shuffle == "steps":  # each device's rows, steps × environments, are dealt evenly too
        apart //= math.gcd(apart, config.num_steps)
    return config.num_envs // math.lcm(apart, config.group_size)


def worth_sharing(trainer: Trainer) -> bool:
    """Whether sharing a batch among devices gains more than their communication costs."""
    config = trainer.config
    return steps_per_update(trainer.environment, config) // config.minibatches >= WORTH_SHARING


def reused(config: Config) -> bool:
    """Whether whole episodes are worked on more than once, which probes of single trajectories watch."""
    return config.rollout == "episodes" and config.epochs > 1
