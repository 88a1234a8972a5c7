"""What a training run can be asked: the settings of `experiments/train.py`, each a flag and an entry of a file."""

from dataclasses import dataclass, fields, make_dataclass
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pgjax import counters
from pgjax.methods.optimizers import OPTIMIZERS
from pgjax.methods.schedules import SCHEDULES
from pgjax.methods.table import ALGORITHMS
from pgjax.runs.settings import parameters
from pgjax.types import SettingError


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


@dataclass(frozen=True)
class _Asked:
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


_SCHEDULES = f"How the learning rate goes to zero over the run's environment steps: {', '.join(SCHEDULES)}."
_OWN = "(default: the method's own)"
_STATIC = parameters.of_config(ALGORITHMS)
_NUMBERS = [flag for flag in parameters.of_methods(ALGORITHMS) if flag[0] not in {name for name, *_ in _STATIC}]

_OfMethods: Any = make_dataclass("_OfMethods", [*_NUMBERS, *_STATIC], bases=(_Asked,), frozen=True)
"""What methods take, made from the table of methods: see `pgjax.runs.settings.parameters`."""


@dataclass(frozen=True)
class Settings(_OfMethods):
    """Train a policy-gradient method on an environment of pgjax's table, several seeds at once.

    None stands for the method's own value. Numbers of numpy become Python's, lists tuples.
    """

    randomise: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Parameter of the environment that each episode draws anew, uniformly, as in length=0.3:1.2; may be repeated. (A
    fixed value is part of the environment's name: CartPole-v1:length=0.7.)"""
    imports: Annotated[str, tyro.conf.arg(name="import", metavar="MODULE")] = ""
    """Module that registers environments of your own, imported before the environment is made: its name, or its path
    NAME.py. A resumed run imports it again, from the same place unless this is given anew."""
    standardise: bool = False
    """Bring credit to mean 0 and standard deviation 1 in every batch (biased in direction)."""
    max_grad_norm: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_OWN)] = None
    """Largest norm of the whole gradient, which is scaled down to it; inf for no bound."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    decay_entropy: int = 0
    """Let the entropy bonus fall linearly to zero over this many updates (0: constant; -1: over the whole run)."""
    optimizer: Annotated[str, tyro.conf.arg(help=f"Optimiser: {', '.join(OPTIMIZERS)}.")] = "adam"
    learning_rate_schedule: Annotated[str, tyro.conf.arg(help=_SCHEDULES)] = "constant"
    warmup_steps: Annotated[int, _STEPS] = 0
    """Let the learning rate rise from 0 over so many environment steps first."""
    decay_updates: int = 0
    """Let the learning rate fall linearly to zero over this many updates, at every step of the optimiser (0: constant;
    -1: over the whole run, for methods that work on streams of steps). --learning-rate-schedule goes by environment
    steps, for all methods."""
    normalise_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1 by running statistics."""
    policy: str = "auto"
    """Distribution of continuous actions between two bounds: auto, gaussian (clipped to them) or squashed (tanh)."""
    network: str = "auto"
    """Network for images: auto, mlp or cnn."""
    initial_log_std: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.0)")] = None
    """Log σ of continuous actions at the start; 0 is half the action box."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the dense layers."""
    shared: bool = False
    """Let the critic share all layers but the last with the policy."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Make the policy recurrent."""
    separate_memory: bool = False
    """Give the critic a memory of its own; otherwise it reads the policy's."""
    layer_norm: bool = False
    """Normalise what each dense layer gives before its tanh."""
    dropout: float = 0.0
    """Share of units left out of each dense layer in training; the same units wherever a step's probability is computed
    anew."""
    population: int = 0
    """Train so many policies as a population in place of --seeds: every --exploit-every updates the worst quarter takes
    over state and hyperparameters of the best, and changes those a little (0: none)."""
    evolve: tuple[str, ...] = ()
    """Hyperparameters that change in a population; default all that the method has and a search would try (tune.py)."""
    exploit_every: int = 20
    """Updates between two exploit steps of a population."""
    eval_episodes: int = 64
    """Episodes per seed in each evaluation, greedy and sampled; the same ones in all of them."""
    eval_every: Annotated[int, _STEPS] = 0
    """Evaluate whenever so many more environment steps have been taken, in the mean over seeds, at the end of the chunk
    in which that happens (0: at the end of training only). Training is the same, to the bit."""
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
    updates_per_chunk: int = 10
    """Updates per compiled call; progress, checkpoints and stopping happen in between."""
    max_skipped: int = 10
    """Stop a seed after so many updates in a row that were not finite."""
    out: str = ""
    """Run directory; default runs/<environment>-<algorithm>-<number>."""
    resume: str = ""
    """Go on with the run of this directory, bit for bit, with its own settings; with a larger --total-steps, beyond its
    end."""
    config: str = ""
    """TOML file of settings, such as a run's config.toml; flags go on top."""
    save_every: float = 60.0
    """Seconds between checkpoints (0: after every chunk). One is always made when stopped, and at the end."""
    keep: int = 3
    """How many of the newest checkpoints to keep, besides the best: by greedy return where --eval-every asks for
    evaluations, else by training return."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Log there too, besides metrics.csv: tensorboard, wandb."""
    tuned: bool = True
    """Where only an environment is named, or its method too, begin with the settings found for it (tuned.toml)."""
    quick: bool = False
    """Begin with much smaller numbers: shows that it runs, not what it finds. Flags go on top."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        """Make numbers and lists plain: the same settings, whoever wrote them."""
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if isinstance(self.total_steps, float) and self.total_steps.is_integer():
            object.__setattr__(self, "total_steps", int(self.total_steps))
        if isinstance(self.seed_list, tuple) and self.seed_list:
            object.__setattr__(self, "seeds", len(self.seed_list))

    def chosen_seeds(self) -> list[int]:
        """The seeds that --seeds, --first-seed or --seed-list mean.

        Raises:
          SettingError: for what is no seed, or is named twice.

        >>> Settings(seeds=3, first_seed=100).chosen_seeds(), Settings(seed_list=(7, 5)).chosen_seeds()
        ([100, 101, 102], [7, 5])
        """
        if not self.seed_list:
            last = self.first_seed + counters.count("seeds", self.seeds) - 1
            counters.seed(self.first_seed, "first_seed")
            return list(range(self.first_seed, counters.seed(last, "first_seed") + 1))
        try:
            return counters.seeds(self.seed_list)
        except SettingError as error:
            raise SettingError("seed_list", self.seed_list, f"cannot be trained with: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
