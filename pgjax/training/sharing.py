"""Choose which devices share one batch's environments.

Gradients are summed over devices in `pgjax.training.gradients`, statistics in `pgjax.estimators.reductions`.
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

WORTH_SHARING = 1 << 9
"""Environment steps per gradient step from which sharing a batch between devices is faster."""


def plan(
    trainer: Trainer,
    algorithm: Algorithm,
    runs: int,
    *,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
) -> Mesh:
    """The device mesh (seed, env) for `runs` runs: first along runs, then along each batch's environments.

    `mesh` is (devices along runs, devices along environments); by default it is chosen by size.
    """
    most = shares(trainer, algorithm)
    if mesh is None:
        return make_mesh(runs, most if most > 1 and worth_sharing(trainer) else 1, devices)
    along_runs, along_environments = mesh
    return asked_mesh(along_runs, along_environments, runs, most, devices)


def shares(trainer: Trainer, algorithm: Algorithm) -> int:
    """The largest number of devices that can share one batch's environments; its divisors are possible too.

    It is 1 for optimal baselines, a policy step, diagnostics of single trajectories, or a surrogate that is not
    declared `per_trajectory`, which need the whole batch on one device.
    """
    config = trainer.config
    needs_batch = algorithm.control_variate is not None or algorithm.policy_step is not None
    needs_batch |= bool(config.accumulate > 1 or config.batch_steps or config.diagnostics or reused(config))
    if needs_batch or not promises(algorithm.estimator.contribution, PER_TRAJECTORY):
        return 1
    divisor = config.minibatches
    if config.shuffle == "steps":  # minibatches divide each device's steps × environments
        divisor //= math.gcd(divisor, config.num_steps)
    return config.num_envs // math.lcm(divisor, config.group_size)


def worth_sharing(trainer: Trainer) -> bool:
    """Whether sharing a batch between devices saves more time than the communication costs."""
    config = trainer.config
    return steps_per_update(trainer.environment, config) // config.minibatches >= WORTH_SHARING


def reused(config: Config) -> bool:
    """Whether a batch of whole episodes is used for several epochs."""
    return config.rollout == "episodes" and config.epochs > 1
