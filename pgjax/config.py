"""Static settings of training, which a compiled program depends on."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from pgjax import counters
from pgjax.types import Algorithm, SettingError

Rollout = Literal["episodes", "stream"]
Mean = Literal["trajectories", "steps"]
Truncation = Literal["bootstrap", "terminal"]
Critic = Literal["none", "state", "action"]
Shuffle = Literal["environments", "steps"]
EngineName = Literal["auto", "cpu", "accelerator", "plain"]


@dataclass(frozen=True)
class Config:
    """Shapes, counts and switches of training; hashable, and static in compiled programs.

    Attributes:
      rollout: "episodes" runs every environment from reset to its end (padding masked), as Monte-Carlo returns and
        products of ratios need; "stream" runs `num_steps` steps with auto-reset, as actor-critics need.
      num_envs: trajectories (episodes) or parallel environments (stream) per update.
      num_steps: steps per environment and update in "stream"; ignored in "episodes", which run to the horizon.
      epochs: passes over each batch. From the second on, the policy differs from the one that sampled the batch. For
        natural steps and trust regions they are the critic's passes.
      minibatches: gradient steps per pass, each on its share of the batch.
      shuffle: unit of minibatches: whole "environments" (needed by products over time), or single "steps".
      group_size: in "episodes", number of consecutive trajectories that start from the same reset.
      normalise_rewards: divide rewards by the running standard deviation of the discounted return.
      accumulate: slices whose gradients are summed one after the other; divides memory by that factor.
      batch_steps: in "episodes", keep only the first episodes that together reach this many steps (0 keeps all).
      mean: "trajectories" divides by their number N (exact); "steps" by the number of executed steps (a ratio
        estimator: another scale and, where lengths vary, another direction).
      truncation: "bootstrap" adds V(final observation) after a time limit; "terminal" adds nothing. Only with a state
        critic on a stream.
      discounted_objective: True keeps the factor γ^t in front of step t, the gradient of E[Σ γ^t r_t]; False drops it,
        as most libraries do. With γ < 1 that is the gradient of no function (Nota & Thomas 2020).
      critic: which values are learned: "none", "state" for V(s), "action" for Q(s, a) of discrete actions.
      diagnostics: groups of trajectories whose gradients are compared at every update (`pgjax.diagnostics`): gradient
        noise, critical batch size, probes of score and bias among the metrics. 0 is off.
      engine: how computations run, without effect on what is computed: "auto" chooses for the device (or uses the
        environment variable PGJAX_ENGINE), "cpu" and "accelerator" are for those, "plain" chooses none.

    >>> Config(num_envs=32, minibatches=5)
    Traceback (most recent call last):
    pgjax.types.SettingError: minibatches: 5 does not divide the batch's 32 environments
    """

    rollout: Literal["episodes", "stream"] = "episodes"
    num_envs: int = 32
    num_steps: int = 128
    epochs: int = 1
    minibatches: int = 1
    shuffle: Literal["environments", "steps"] = "environments"
    group_size: int = 1
    normalise_rewards: bool = False
    accumulate: int = 1
    batch_steps: int = 0
    mean: Literal["trajectories", "steps"] = "trajectories"
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    discounted_objective: bool = False
    critic: Literal["none", "state", "action"] = "none"
    diagnostics: int = 0
    engine: Literal["auto", "cpu", "accelerator", "plain"] = "auto"

    def __post_init__(self) -> None:
        """Reject settings that do not work, before compilation."""
        choices = {
            "rollout": Rollout,
            "mean": Mean,
            "truncation": Truncation,
            "critic": Critic,
            "shuffle": Shuffle,
            "engine": EngineName,
        }
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise SettingError(name, getattr(self, name), f"is none of {', '.join(get_args(literal))}")
        at_least_one = ("num_envs", "num_steps", "epochs", "minibatches", "group_size", "accumulate")
        least_values = dict.fromkeys(at_least_one, 1) | {"batch_steps": 0, "diagnostics": 0}
        for name, least in least_values.items():
            object.__setattr__(self, name, counters.count(name, getattr(self, name), least=least, floats=False))
        for name in ("accumulate", "diagnostics", "group_size"):
            if getattr(self, name) and self.num_envs % getattr(self, name):
                raise SettingError(name, getattr(self, name), f"does not divide num_envs {self.num_envs}")
        if self.diagnostics == 1 or (self.diagnostics and self.accumulate > 1):
            raise SettingError("diagnostics", self.diagnostics, "needs at least 2 groups, and accumulate 1")
        for name, absent in (("batch_steps", 0), ("group_size", 1)):
            if getattr(self, name) != absent and self.rollout != "episodes":
                raise SettingError(name, getattr(self, name), 'needs rollout "episodes"')
        self._check_minibatches()

    def _check_minibatches(self) -> None:
        by_steps = self.shuffle == "steps" and self.minibatches > 1
        if by_steps and (self.rollout != "stream" or self.mean != "steps"):
            raise SettingError("shuffle", self.shuffle, 'needs rollout "stream" and mean "steps"')
        rows = self.num_envs * self.num_steps if by_steps else self.num_envs
        if rows % self.minibatches:
            raise SettingError("minibatches", self.minibatches, f"does not divide the batch's {rows} {self.shuffle}")
        if self.minibatches > 1 and (self.accumulate > 1 or self.diagnostics):
            raise SettingError("minibatches", self.minibatches, "cannot be combined with accumulate or diagnostics")
        if self.normalise_rewards and self.accumulate > 1:
            raise SettingError("normalise_rewards", True, "cannot be combined with accumulate")


class Recipe(NamedTuple):
    """A method ready to train: its algorithm (a pytree of hyperparameters) and its static settings.

    >>> from pgjax import hyperparameters, reinforce
    >>> algorithm, config = reinforce(learning_rate=0.1)
    >>> hyperparameters(algorithm)["learning_rate"], config.num_envs
    (0.1, 32)
    """

    algorithm: Algorithm
    config: Config
