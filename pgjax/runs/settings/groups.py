"""The flags of `experiments/train.py`, group by group: fields of dataclasses that `flags.Settings` puts together."""

from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pgjax.methods.optimizers import OPTIMIZERS
from pgjax.methods.schedules import SCHEDULES
from pgjax.methods.table import ALGORITHMS
from pgjax.runs.settings import parameters


def _whole(text: str) -> int:
    """A whole number from a command line, such as 100000 or 1e5."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(f"{text} is no whole number") from None
        return int(number)


_STEPS = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT",
    instance_from_str=lambda words: _whole(words[0]),
    is_instance=lambda value: isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)


_SCHEDULES = f"How the learning rate goes to zero over the run's environment steps: {', '.join(SCHEDULES)}."
_OWN = "(default: the method's own)"
_STATIC = parameters.of_config(ALGORITHMS)
_NUMBERS = [flag for flag in parameters.of_methods(ALGORITHMS) if flag[0] not in {name for name, *_ in _STATIC}]
_ELSEWHERE = {
    "learning_rate": "optimiser",
    "max_grad_norm": "optimiser",
    "normalise_rewards": "method",
    "mean": "method",
    "truncation": "method",
    "discounted_objective": "method",
    "diagnostics": "logs",
    "engine": "devices",
}
"""Flags from the table of methods in other groups than method (hyperparameters) and batch (`Config`)."""


def _of_methods(group: str) -> Any:
    """The flags of a group that are made from the table of methods, see `pgjax.runs.settings.parameters`."""
    flags = [(flag, "method") for flag in _NUMBERS] + [(flag, "batch") for flag in _STATIC]
    chosen = [flag for flag, usual in flags if _ELSEWHERE.get(flag[0], usual) == group]
    return make_dataclass(f"_Of{group.capitalize()}", chosen, frozen=True)


_OfMethod: Any = _of_methods("method")
_OfOptimiser: Any = _of_methods("optimiser")
_OfDevices: Any = _of_methods("devices")
_OfLogs: Any = _of_methods("logs")
_Batch: Any = _of_methods("batch")
_Batch.__doc__ = "What an update is made of."


@dataclass(frozen=True)
class _Run:
    """What is trained, for how long, and where it is kept."""

    environment: str = "CartPole-v1"
    """Name of a gymnax environment, such as CartPole-v1, Catch-bsuite, Pendulum-v1 or Breakout-MinAtar; or of another
    family's behind its prefix, such as jumanji/Snake-v1. --list-environments prints all that are installed."""
    algorithm: Annotated[str, tyro.conf.arg(help=f"Method: {', '.join(ALGORITHMS)}.")] = "reinforce"
    seeds: int = 8
    """How many policies to train side by side, from seeds 0, 1, 2, …"""
    first_seed: int = 0
    """The first of these seeds: with 100, they are 100, 101, 102, …"""
    seed_list: tuple[int, ...] = ()
    """These seeds, such as 3 5 9, in place of --seeds and --first-seed."""
    total_steps: Annotated[int, _STEPS] = 400_000
    """Environment steps per seed; training ends with the first update that reaches them."""
    population: int = 0
    """Train so many policies as a population in place of --seeds: every --exploit-every updates the worst quarter takes
    over state and hyperparameters of the best, and changes those a little (0: none)."""
    evolve: tuple[str, ...] = ()
    """Hyperparameters that change in a population; default all that the method has and a search would try (tune.py)."""
    exploit_every: int = 20
    """Updates between two exploit steps of a population."""
    out: str = ""
    """Run directory; default runs/<environment>-<algorithm>-<number>."""
    resume: str = ""
    """Go on with the run of this directory, bit for bit, with its own settings; with a larger --total-steps, beyond its
    end."""
    config: str = ""
    """TOML file of settings, such as a run's config.toml; flags go on top."""
    tuned: bool = True
    """Where only an environment is named, or its method too, begin with the settings found for it (tuned.toml)."""
    quick: bool = False
    """Begin with much smaller numbers: shows that it runs, not what it finds. Flags go on top."""
    save_every: float = 60.0
    """Seconds between checkpoints (0: after every chunk). One is always made when stopped, and at the end."""
    keep: int = 3
    """How many of the newest checkpoints to keep, besides the best: by greedy return where --eval-every asks for
    evaluations, else by training return."""
    updates_per_chunk: int = 10
    """Updates per compiled call; progress, checkpoints and stopping happen in between."""
    max_skipped: int = 10
    """Stop a seed after so many updates in a row that were not finite."""


@dataclass(frozen=True)
class _Environment:
    """What the policies act in, beside its name."""

    imports: Annotated[str, tyro.conf.arg(name="import", metavar="MODULE")] = ""
    """Module that registers environments of your own, imported before the environment is made: its name, or its path
    NAME.py. A resumed run imports it again, from the same place unless this is given anew."""
    randomise: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Parameter of the environment that each episode draws anew, uniformly, as in length=0.3:1.2; may be repeated. (A
    fixed value is part of the environment's name: CartPole-v1:length=0.7.)"""


@dataclass(frozen=True)
class _Method(_OfMethod):
    """What the gradient is."""

    standardise: bool = False
    """Bring credit to mean 0 and standard deviation 1 in every batch (biased in direction)."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    decay_entropy: int = 0
    """Let the entropy bonus fall linearly to zero over this many updates (0: constant; -1: over the whole run)."""


@dataclass(frozen=True)
class _Network:
    """What the policy and the critic are."""

    network: str = "auto"
    """Network for images: auto, mlp or cnn."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    shared: bool = False
    """Let the critic share all layers but the last with the policy."""
    layer_norm: bool = False
    """Normalise what each dense layer gives before its tanh."""
    dropout: float = 0.0
    """Share of units left out of each dense layer in training; the same units wherever a step's probability is computed
    anew."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Make the policy recurrent."""
    separate_memory: bool = False
    """Give the critic a memory of its own; otherwise it reads the policy's."""
    normalise_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1 by running statistics."""
    policy: str = "auto"
    """Distribution of continuous actions between two bounds: auto, gaussian (clipped to them) or squashed (tanh)."""
    initial_log_std: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.0)")] = None
    """Log σ of continuous actions at the start; 0 is half the action box."""


@dataclass(frozen=True)
class _Optimiser(_OfOptimiser):
    """How parameters move."""

    max_grad_norm: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_OWN)] = None
    """Largest norm of the whole gradient, which is scaled down to it; inf for no bound."""
    optimizer: Annotated[str, tyro.conf.arg(help=f"Optimiser: {', '.join(OPTIMIZERS)}.")] = "adam"
    learning_rate_schedule: Annotated[str, tyro.conf.arg(help=_SCHEDULES)] = "constant"
    warmup_steps: Annotated[int, _STEPS] = 0
    """Let the learning rate rise from 0 over so many environment steps first."""
    decay_updates: int = 0
    """Let the learning rate fall linearly to zero over this many updates, at every step of the optimiser (0: constant;
    -1: over the whole run, for methods that work on streams of steps). --learning-rate-schedule goes by environment
    steps, for all methods."""


@dataclass(frozen=True)
class _Evaluation:
    """How good the policies are, on episodes of their own."""

    eval_episodes: int = 64
    """Episodes per seed in each evaluation, greedy and sampled; the same ones in all of them."""
    eval_every: Annotated[int, _STEPS] = 0
    """Evaluate whenever so many more environment steps have been taken, in the mean over seeds, at the end of the chunk
    in which that happens (0: at the end of training only). Training is the same, to the bit."""


@dataclass(frozen=True)
class _Devices(_OfDevices):
    """Where it is computed."""

    devices: int = 0
    """Devices of each process to spread the seeds over: GPUs, or CPU cores (0: all)."""
    mesh: tuple[int, ...] = ()
    """Devices along the seeds, and devices that share each seed's environments, such as 4 2; default: as many as divide
    the seeds, and the rest for the environments where batches are large."""
    distributed: bool = False
    """Be one of several processes, on one machine or many, that train together; each is started with this command."""
    coordinator: str = ""
    """HOST:PORT where process 0 waits for the others (--distributed); SLURM's is found by itself."""
    processes: int = 0
    """How many processes there are (--distributed); SLURM's are counted by themselves."""
    process_id: int = -1
    """Which of them this is, from 0; a SLURM task, or a pod of an indexed Kubernetes job, knows by itself."""
    join_timeout: int = 120
    """Seconds to wait for the others at the start."""


@dataclass(frozen=True)
class _Logs(_OfLogs):
    """What is written and shown."""

    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Log there too, besides metrics.csv: tensorboard, wandb, trackio."""
    quiet: bool = False
    """Print nothing but errors."""


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
"""The groups of flags, in the order in which --help shows them."""

_COMMON = """
    environment algorithm seeds total_steps population out resume config tuned quick
    discount baseline gae_lambda clip entropy_coefficient
    network hidden memory normalise_observations
    num_envs num_steps epochs minibatches group_size
    learning_rate learning_rate_schedule optimizer max_grad_norm
    eval_every eval_episodes devices log quiet
"""
COMMON = frozenset(_COMMON.split())
"""The flags that --help shows; --help-all shows all."""
