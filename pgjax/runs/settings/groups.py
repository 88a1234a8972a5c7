"""The command-line flags of `experiments/train.py` in groups, as dataclasses that `flags.Settings` combines."""

from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pgjax.methods.optimizers import OPTIMIZERS
from pgjax.methods.schedules import SCHEDULES
from pgjax.methods.table import ALGORITHMS
from pgjax.runs.settings import parameters


def _whole(text: str) -> int:
    """A whole number on a command line, such as 100000 or 1e5."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(f"{text} is not a whole number") from None
        return int(number)


_STEPS = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT",
    instance_from_str=lambda words: _whole(words[0]),
    is_instance=lambda value: isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)


_SCHEDULES = f"Schedule of the learning rate over the environment steps of the run: {', '.join(SCHEDULES)}."
_METHOD_DEFAULT = "(default: that of the method)"
_STATIC = parameters.of_config(ALGORITHMS)
_NUMBERS = [flag for flag in parameters.of_methods(ALGORITHMS) if flag[0] not in {name for name, *_ in _STATIC}]
_OTHER_GROUP = {
    "learning_rate": "optimiser",
    "max_grad_norm": "optimiser",
    "normalise_rewards": "method",
    "mean": "method",
    "truncation": "method",
    "discounted_objective": "method",
    "diagnostics": "logs",
    "engine": "devices",
}
"""Group of each flag from the table of methods that is in neither "method" (hyperparameters) nor "batch" (`Config`)."""


def _of_methods(group: str) -> Any:
    """The flags of a group that `pgjax.runs.settings.parameters` makes from the table of methods."""
    flags = [(flag, "method") for flag in _NUMBERS] + [(flag, "batch") for flag in _STATIC]
    chosen = [flag for flag, usual in flags if _OTHER_GROUP.get(flag[0], usual) == group]
    return make_dataclass(f"_Of{group.capitalize()}", chosen, frozen=True)


_OfMethod: Any = _of_methods("method")
_OfOptimiser: Any = _of_methods("optimiser")
_OfDevices: Any = _of_methods("devices")
_OfLogs: Any = _of_methods("logs")
_Batch: Any = _of_methods("batch")
_Batch.__doc__ = "Size of a batch and how an update uses it."


@dataclass(frozen=True)
class _Run:
    """What to train, for how long, and where results are written."""

    environment: str = "CartPole-v1"
    """Name of a gymnax environment, such as CartPole-v1, Catch-bsuite or Breakout-MinAtar, or FAMILY/NAME for another
    family, such as jumanji/Snake-v1. --list-environments prints all that are installed."""
    algorithm: Annotated[str, tyro.conf.arg(help=f"Method: {', '.join(ALGORITHMS)}.")] = "reinforce"
    seeds: int = 8
    """Number of policies to train in parallel, with seeds 0, 1, 2, …"""
    first_seed: int = 0
    """First of these seeds; 100 gives 100, 101, 102, …"""
    seed_list: tuple[int, ...] = ()
    """List of seeds, such as 3 5 9, instead of --seeds and --first-seed."""
    total_steps: Annotated[int, _STEPS] = 400_000
    """Environment steps per seed; training ends with the first update that reaches this number."""
    population: int = 0
    """Size of a population (population-based training), instead of --seeds: every --exploit-every updates the worst
    quarter copies state and hyperparameters of the best quarter and perturbs the hyperparameters (0: no population)."""
    evolve: tuple[str, ...] = ()
    """Hyperparameters that a population changes; default all of the method that tune.py searches."""
    exploit_every: int = 20
    """Updates between two exploit steps of a population."""
    out: str = ""
    """Run directory; default runs/<environment>-<algorithm>-<number>."""
    resume: str = ""
    """Resume the run in this directory with its own settings; the results are those of an uninterrupted run, bit for
    bit. A larger --total-steps extends the run."""
    config: str = ""
    """TOML file of settings, such as the config.toml of a run; other flags override it."""
    tuned: bool = True
    """Use the tuned settings of the named environment (tuned.toml), if there are any for the chosen method."""
    quick: bool = False
    """Use small sizes to test that everything runs; other flags override them."""
    save_every: float = 60.0
    """Seconds between checkpoints (0: after every chunk). One is always written when training stops."""
    keep: int = 3
    """Number of newest checkpoints to keep besides the best one, which has the highest greedy return with --eval-every
    and the highest training return without it."""
    updates_per_chunk: int = 10
    """Updates per compiled call (a chunk); progress, checkpoints and stopping happen between chunks."""
    max_skipped: int = 10
    """Stop a seed after this many non-finite updates in a row."""


@dataclass(frozen=True)
class _Environment:
    """Options of the environment."""

    imports: Annotated[str, tyro.conf.arg(name="import", metavar="MODULE")] = ""
    """Module that registers your own environments, as a name or a path NAME.py. It is imported before the environment
    is made, and again when the run is resumed."""
    randomise: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Environment parameter drawn uniformly in each episode, NAME=LOW:HIGH, such as length=0.3:1.2; may be repeated. A
    fixed value is part of the environment's name: CartPole-v1:length=0.7."""


@dataclass(frozen=True)
class _Method(_OfMethod):
    """Hyperparameters of the gradient estimator and the loss."""

    standardise: bool = False
    """Standardise the credit of every batch to mean 0 and standard deviation 1. This biases the direction of the
    gradient."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    decay_entropy: int = 0
    """Number of updates over which the entropy bonus decays linearly to zero (0: constant; -1: the whole run)."""


@dataclass(frozen=True)
class _Network:
    """Networks of the policy and the critic."""

    network: str = "auto"
    """Network for images: auto, mlp or cnn."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    shared: bool = False
    """Share all layers except the last between policy and critic."""
    layer_norm: bool = False
    """Apply layer normalisation before the tanh of each dense layer."""
    dropout: float = 0.0
    """Dropout rate of the dense layers in training. When the probability of a step is recomputed, the same units are
    dropped as during the rollout."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Recurrent layer of the policy."""
    separate_memory: bool = False
    """Use a separate recurrent layer for the critic; otherwise it reads that of the policy."""
    normalise_observations: bool = False
    """Normalise observations to mean 0 and standard deviation 1 with running statistics."""
    policy: str = "auto"
    """Distribution of bounded continuous actions: auto, gaussian (clipped to the bounds) or squashed (tanh)."""
    initial_log_std: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.0)")] = None
    """Initial log σ of continuous actions; at 0, σ is half the width of the action box."""


@dataclass(frozen=True)
class _Optimiser(_OfOptimiser):
    """Optimiser, learning rate and gradient clipping."""

    max_grad_norm: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_METHOD_DEFAULT)] = None
    """Clip the global norm of the gradient to this value; inf for no clipping."""
    optimizer: Annotated[str, tyro.conf.arg(help=f"Optimiser: {', '.join(OPTIMIZERS)}.")] = "adam"
    learning_rate_schedule: Annotated[str, tyro.conf.arg(help=_SCHEDULES)] = "constant"
    warmup_steps: Annotated[int, _STEPS] = 0
    """Environment steps over which the learning rate first rises linearly from 0."""
    decay_updates: int = 0
    """Number of updates over which the learning rate decays linearly to zero, at every optimiser step (0: constant;
    -1: the whole run, for methods that work on streams of steps). --learning-rate-schedule counts environment steps
    instead and works with every method."""


@dataclass(frozen=True)
class _Evaluation:
    """Evaluation of the policies on separate episodes."""

    eval_episodes: int = 64
    """Episodes per seed in each evaluation, both greedy and sampled; every evaluation uses the same episodes."""
    eval_every: Annotated[int, _STEPS] = 0
    """Environment steps between evaluations (mean over seeds), at the end of the chunk that reaches them; 0 evaluates
    only after training. Training results do not depend on it."""


@dataclass(frozen=True)
class _Devices(_OfDevices):
    """Devices and processes."""

    devices: int = 0
    """Number of devices per process, GPUs or CPU cores, that share the seeds (0: all)."""
    mesh: tuple[int, ...] = ()
    """Number of devices for the seeds and for the environments of each seed, such as 4 2. Default: as many as divide
    the number of seeds; the others share environments if batches are large."""
    distributed: bool = False
    """Train in several processes, on one machine or more; start each of them with this flag."""
    coordinator: str = ""
    """HOST:PORT of process 0 (--distributed); found automatically under SLURM."""
    processes: int = 0
    """Number of processes (--distributed); found automatically under SLURM."""
    process_id: int = -1
    """Index of this process, from 0; found automatically under SLURM and in indexed Kubernetes jobs."""
    join_timeout: int = 120
    """Seconds to wait for the other processes at the start."""


@dataclass(frozen=True)
class _Logs(_OfLogs):
    """Logs and printed output."""

    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Loggers to use besides metrics.csv: tensorboard, wandb, trackio."""
    quiet: bool = False
    """Print errors only."""


GROUPS: dict[str, type] = {
    "run": _Run,
    "environment": _Environment,
    "method": _Method,
    "network": _Network,
    "batch": _Batch,
    "optimiser": _Optimiser,
    "evaluation": _Evaluation,
    "devices": _Devices,
    "logs": _Logs,
}
"""Groups of flags, in the order of --help."""

_COMMON = """
    environment algorithm seeds total_steps population out resume config tuned quick
    discount baseline gae_lambda clip entropy_coefficient
    network hidden memory normalise_observations
    num_envs num_steps epochs minibatches group_size
    learning_rate learning_rate_schedule optimizer max_grad_norm
    eval_every eval_episodes devices log quiet
"""
COMMON = frozenset(_COMMON.split())
"""Flags that --help shows; --help-all shows all."""
