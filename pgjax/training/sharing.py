"""Which devices share one batch's environments: `plan` decides.

`pgjax.engine.devices` lays devices out in a mesh (seed, env), and `pgjax.sweeps` maps training over it. Gradients are
summed over the devices in `pgjax.training.gradients.gradient`, statistics in `pgjax.estimators.reductions`.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from pgjax.config import Config
from pgjax.engine.devices import asked_mesh, make_mesh
from pgjax.estimators.contracts import PER_TRAJECTORY, promises
from pgjax.training.checks import steps_per_update
from pgjax.types import Algorithm, Trainer

WORTH_SHARING = 1 << 12
"""Steps per gradient step from which on devices that share them gain more than their communication costs."""


def plan(
    trainer: Trainer,
    algorithm: Algorithm,
    runs: int,
    *,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
) -> Mesh:
    """The devices that so many runs are spread over: first along runs, then along each batch's environments.

    Args:
      trainer: what is trained.
      algorithm: its numbers.
      runs: how many.
      devices: which to use; default all.
      mesh: (along runs, along environments), in place of a choice by size.

    Raises:
      SettingError: for a mesh that does not divide the runs or environments or needs more devices than there are.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> plan(trainer, reinforce().algorithm, runs=1).shape["env"]  # two steps are not worth the communication
    1
    """
    most = shares(trainer, algorithm)
    if mesh is None:
        return make_mesh(runs, most if worth_sharing(trainer) else 1, devices)
    along_runs, along_environments = mesh
    return asked_mesh(along_runs, along_environments, runs, most, devices)


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
