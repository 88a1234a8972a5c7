"""Sweeps: seeds × any hyperparameters in one compiled call, spread over devices."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pgjax import counters
from pgjax.engine import hosts
from pgjax.engine.devices import SEED_AXIS
from pgjax.environments.parameters import check_parameters, with_parameters
from pgjax.estimators.reductions import ENV_AXIS
from pgjax.methods.hyperparameters import OF_THE_ENVIRONMENT, check_hyperparameters, with_hyperparameters
from pgjax.training.checks import steps_per_update
from pgjax.training.evaluation import evaluate
from pgjax.training.keys import as_key
from pgjax.training.loop import NEVER, run_updates
from pgjax.training.sharing import plan
from pgjax.types import Agent, Algorithm, Environment, Params, SettingError, Trainer, TrainState

Over = Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]]
"""What a sweep runs over: names -> values, of which every combination is run, or a list of settings."""


class Runs(NamedTuple):
    """Many training runs as one: settings × seeds, flattened to an axis of R runs, settings first.

    Attributes:
      seeds: the seed of each run, [R]; it names the run, with the settings.
      settings: name -> value of each run, [R].
      algorithm: leaves [R].
      state: leaves [R, ...].
      mesh: the devices they are spread over.
    """

    seeds: np.ndarray
    settings: dict[str, np.ndarray]
    algorithm: Algorithm
    state: TrainState
    mesh: Mesh

    def find(self, **wanted: float) -> int:
        """The position of the run with this `seed` and these settings; what is left out may be anything.

        Seeds are compared exactly, settings as the float32 numbers that runs compute with.

        Raises:
          SettingError: if there is no such run.
        """
        columns = self.settings | {"seed": self.seeds}
        match = np.ones(len(self.seeds), bool)
        for name, value in wanted.items():
            if name not in columns:
                raise SettingError(name, value, f"was not swept; there are {', '.join(columns)}")
            if name == "seed":
                match &= self.seeds == counters.seed(value)
            else:
                match &= np.float32(columns[name]) == np.float32(value)
            if not match.any():
                raise SettingError(name, value, f"is not among the runs; there are {_in_words(columns[name])}")
        return int(np.argmax(match))

    def pick(self, **wanted: float) -> TrainState:
        """One run's state, e.g. `runs.pick(seed=3, learning_rate=0.01).params`, taken off the mesh."""
        one = _pick(self.mesh, self.state, self.find(**wanted))
        return jax.tree.map(lambda x: x.addressable_data(0), one)


class SweepResult(NamedTuple):
    """What a sweep leaves: the runs in their final state, and metrics by name, each [R, updates]."""

    runs: Runs
    metrics: dict[str, np.ndarray]


def start(
    trainer: Trainer,
    algorithm: Algorithm,
    *,
    seeds: int | Sequence[int] = 1,
    over: Over | None = None,
    paired: bool = False,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
) -> Runs:
    """Initialise every run of a sweep.

    Args:
      trainer: what to run.
      algorithm: the hyperparameters that are not swept: numbers, or arrays such as a discount for each environment.
      seeds: how many (0, 1, …) or which: different integers from 0 to 2³¹ − 1.
      over: hyperparameter name -> values, all combinations of which are run; or a list of settings, just these. Each
        value is a number. A name such as "environment.length" is one of `Environment.parameters`.
      paired: run the i-th setting with the i-th seed, instead of every setting with every seed.
      devices: where; default all, of all processes. Runs are spread over as many as divide their number, which needs
        no communication; where devices are left over and batches are large, they share the environments of each batch.
      mesh: so many devices along the runs, and so many that share each batch's environments, instead.

    Raises:
      SettingError: for no seeds, or what is no seed or is named twice; for unknown names, empty or impossible values;
        for a mesh that does not divide the runs or environments or needs more devices than there are; for processes
        that would have nothing to do.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = start(trainer, reinforce().algorithm, seeds=2, over={"learning_rate": [0.1, 0.01]})
    >>> runs.seeds.tolist(), runs.find(seed=1, learning_rate=0.01)
    ([0, 1, 0, 1], 3)
    """
    chosen = counters.seeds(seeds)
    combinations = _combinations({} if over is None else over)
    if paired and len(combinations) != len(chosen):
        raise SettingError("over", len(combinations), f"settings cannot be paired with {len(chosen)} seeds")
    each, times = (1, 1) if paired else (len(chosen), len(combinations))
    settings = {name: np.repeat([c[name] for c in combinations], each) for name in combinations[0]}
    count = len(combinations) * each
    whole = with_hyperparameters(algorithm, settings)
    check_hyperparameters(whole)
    varying = {name: settings.get(OF_THE_ENVIRONMENT + name, x) for name, x in (whole.environment or {}).items()}
    check_parameters(trainer.environment, {name: np.unique(np.asarray(x)).tolist() for name, x in varying.items()})
    same = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *jnp.shape(x))), algorithm)
    columns = {name: jnp.asarray(values, jnp.float32) for name, values in settings.items()}
    stacked = with_hyperparameters(same, columns)
    seed_of = np.tile(chosen, times)
    spread = plan(trainer, algorithm, count, devices=devices, mesh=mesh)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seed_of, jnp.uint32))
    return Runs(seed_of, settings, stacked, _start(trainer, spread, stacked, keys), spread)


def take(trainer: Trainer, runs: Runs, positions: Sequence[int], devices: Sequence[Any] | None = None) -> Runs:
    """The runs at these positions, as they stand, spread anew: the others' share of the devices becomes theirs.

    Args:
      trainer: what runs.
      runs: all of them.
      positions: which, each once.
      devices: where; default all.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = start(trainer, reinforce().algorithm, seeds=4)
    >>> take(trainer, runs, [3, 1]).seeds.tolist()
    [3, 1]
    """
    chosen = np.asarray(positions, int)
    algorithm, state = jax.tree.map(lambda x: x[chosen], (runs.algorithm, runs.state))
    mesh = plan(trainer, jax.tree.map(lambda x: x[0], algorithm), len(chosen), devices=devices)
    where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), placed_as(state))
    settings = {name: values[chosen] for name, values in runs.settings.items()}
    algorithm = jax.device_put(algorithm, NamedSharding(mesh, P(SEED_AXIS)))
    return Runs(runs.seeds[chosen], settings, algorithm, jax.device_put(state, where), mesh)


def _combinations(over: Over) -> list[dict[str, float]]:
    if isinstance(over, Mapping):
        for name, values in over.items():
            if np.ndim(values) == 0:
                raise SettingError(name, values, "must be a list of the values to sweep")
            if len(values) == 0:
                raise SettingError(name, list(values), "has no values to sweep")
        listed = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    else:
        listed = [dict(setting) for setting in over]
        if not listed or any(setting.keys() != listed[0].keys() for setting in listed):
            raise SettingError("over", listed, "must be one or more settings of the same hyperparameters")
    for name, value in (pair for setting in listed for pair in setting.items()):
        if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf":
            raise SettingError(name, value, "cannot be swept: each value must be one number")
    return listed


def steps_of(trainer: Trainer) -> int:
    """Environment steps of one update, at most."""
    return steps_per_update(trainer.environment, trainer.config)


def _in_words(column: np.ndarray) -> str:
    """The different values of a column, at most ten of them."""
    values = [str(value) for value in np.unique(column)]
    return ", ".join(values if len(values) <= 10 else [*values[:8], "…", values[-1]])


def advance(
    trainer: Trainer, runs: Runs, total_steps: float, updates: int, max_skipped: int = NEVER, *, donate: bool = False
) -> tuple[Runs, dict[str, np.ndarray]]:
    """Up to `updates` more updates of every run that has not yet taken `total_steps` environment steps.

    A run of which `max_skipped` updates in a row were not finite is left as it is.

    Args:
      trainer: what runs.
      runs: where they stand. They stay as they are, unless `donate`.
      total_steps: environment steps after which a run is over.
      updates: how many updates, at most.
      max_skipped: how many updates in a row may be not finite.
      donate: reuse the memory of `runs.state`, which is deleted: for a loop that keeps no earlier Runs.

    Returns:
      Runs, and metrics by name, [R, updates]; `active` is False where a run was already done.

    Raises:
      SettingError: for numbers that are no counts, or more steps than a counter of 32 bits holds.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")  # episodes of one step
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> first = start(trainer, reinforce().algorithm)
    >>> second, metrics = advance(trainer, first, total_steps=100, updates=3)
    >>> first.state.env_steps.tolist(), second.state.env_steps.tolist()
    ([0], [6])
    """
    limits = (
        jnp.int32(counters.budget("total_steps", total_steps, steps_of(trainer))),
        jnp.int32(counters.count("max_skipped", max_skipped)),
    )
    program = _advance_donated if donate else _advance
    updates = counters.count("updates", updates)
    state, metrics = program(trainer, updates, runs.mesh, runs.algorithm, runs.state, limits)
    return runs._replace(state=state), hosts.fetch(metrics)


def compiled(trainer: Trainer, runs: Runs, updates: int) -> Any:
    """The program that `advance` runs, as jax's `Compiled`: its text shows the communication between devices."""
    limits = jnp.int32(0), jnp.int32(NEVER)
    return _advance.lower(trainer, updates, runs.mesh, runs.algorithm, runs.state, limits).compile()


def chunks(
    trainer: Trainer,
    runs: Runs,
    total_steps: float,
    updates: int = 10,
    max_skipped: int = NEVER,
    *,
    donate: bool = False,
) -> Iterator[tuple[Runs, dict[str, np.ndarray]]]:
    """Advance until every run has taken `total_steps`; yields after each compiled chunk, for the caller to report.

    A run is also over once `max_skipped` of its updates in a row were not finite. The arguments are those of
    `advance`: with `donate`, the Runs given and all yielded are deleted when the next chunk begins.

    Raises:
      SettingError: as `advance`, when called.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")  # episodes of one step
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = start(trainer, reinforce().algorithm)
    >>> [metrics["env_steps"].tolist() for _, metrics in chunks(trainer, runs, total_steps=8, updates=3)]
    [[[2, 4, 6]], [[8, 8, 8]]]
    """
    total_steps = counters.budget("total_steps", total_steps, steps_of(trainer))
    updates, max_skipped = counters.count("updates", updates), counters.count("max_skipped", max_skipped)

    def advancing(runs: Runs) -> Iterator[tuple[Runs, dict[str, np.ndarray]]]:
        while True:
            runs, metrics = advance(trainer, runs, total_steps, updates, max_skipped, donate=donate)
            skipped = hosts.fetch(runs.state.skipped_in_a_row)
            over = (metrics["env_steps"][:, -1] >= total_steps) | (skipped >= max_skipped)
            yield runs, metrics
            if np.all(over):
                return

    return advancing(runs)


def sweep(
    trainer: Trainer,
    algorithm: Algorithm,
    *,
    total_steps: float,
    seeds: int | Sequence[int] = 1,
    over: Over | None = None,
    devices: Sequence[Any] | None = None,
    mesh: Sequence[int] | None = None,
    updates_per_chunk: int = 10,
    max_updates: int | None = None,
) -> SweepResult:
    """Train all seeds × settings, each for `total_steps` environment steps, traced and compiled once.

    Args:
      trainer: what to run.
      algorithm: hyperparameters that are not swept.
      total_steps: environment steps per run, a whole number such as 100_000 or 1e5; a run ends with the first update
        that reaches it.
      seeds: how many, or which.
      over: hyperparameter name -> values, or a list of settings, as in `start`.
      devices: where; default all.
      mesh: how they are used, as in `start`.
      updates_per_chunk: updates per compiled call.
      max_updates: stop after about so many (whole chunks), whatever steps have been taken; default never. A policy
        whose episodes have become short would otherwise need very many.

    Raises:
      SettingError: as `start`; for numbers that are no counts, or more steps than a counter of 32 bits holds.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("Catch-bsuite")
    >>> trainer = make_trainer(env, make_agent(env), Config(num_envs=4))
    >>> result = sweep(trainer, reinforce().algorithm, total_steps=72, seeds=2, over={"learning_rate": [0.1, 0.01]})
    >>> result.runs.settings["learning_rate"].tolist(), result.runs.seeds.tolist()
    ([0.1, 0.1, 0.01, 0.01], [0, 1, 0, 1])
    """
    total_steps = counters.budget("total_steps", total_steps, steps_of(trainer))
    updates_per_chunk = counters.count("updates_per_chunk", updates_per_chunk)
    max_updates = None if max_updates is None else counters.count("max_updates", max_updates)
    runs, pieces = start(trainer, algorithm, seeds=seeds, over=over, devices=devices, mesh=mesh), []
    for now, metrics in chunks(trainer, runs, total_steps, updates_per_chunk, donate=True):
        pieces.append(metrics)
        runs = now
        if max_updates is not None and len(pieces) * updates_per_chunk >= max_updates:
            break
    return SweepResult(runs, join(pieces))


def join(pieces: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Metrics of all chunks one after the other, [R, updates], without updates in which every run was done."""
    joined = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
    last = int(joined["active"].any(axis=0).sum())
    return {name: values[:, :last] for name, values in joined.items()}


def evaluate_runs(
    environment: Environment,
    agent: Agent,
    runs: Runs,
    key: Array,
    *,
    episodes: int = 64,
    greedy: bool = False,
    environment_parameters: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Evaluate every run's policy on the same evaluation episodes: undiscounted returns, [R, episodes].

    A run that was trained with parameters of the environment of its own is evaluated with these.

    Args:
      environment: where to act.
      agent: whose policies.
      runs: the runs.
      key: evaluation's own, of either kind (`jax.random.key`, `jax.random.PRNGKey`); never one that training has used.
      episodes: how many.
      greedy: the most likely action instead of a sampled one.
      environment_parameters: name -> number, the same for all runs, instead of their own; {} for the environment as it
        is.

    Raises:
      SettingError: for a key that is none, no number of episodes, or parameters that cannot vary there.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = start(trainer, reinforce().algorithm, over={"learning_rate": [0.1, 0.01]})
    >>> first, second = evaluate_runs(env, make_agent(env, hidden=()), runs, jax.random.key(1), episodes=8)
    >>> first.shape, bool((first == second).all())  # not trained yet: one seed, one policy
    ((8,), True)
    """
    episodes, key = counters.count("episodes", episodes), as_key(key)
    if key.shape:
        raise SettingError("key", f"{list(key.shape)} keys", "must be one key")
    values = runs.algorithm.environment
    if environment_parameters is not None:
        with_parameters(environment, environment_parameters)  # refuses what is no number
        check_parameters(environment, environment_parameters)
        values = {name: jnp.full(len(runs.seeds), x, jnp.float32) for name, x in environment_parameters.items()}
    returns = _evaluate(environment, agent, episodes, bool(greedy), runs.mesh, (runs.state.params, values), key)
    return hosts.fetch(returns)


def placed_as(state: TrainState) -> Any:
    """Along which axes of the mesh each leaf [R, ...] or [R, N, ...] of a state is cut."""

    def place(path: tuple, _: Any) -> P:
        names = [getattr(key, "name", None) for key in path]
        per_environment = names[0] == "rollout_state" or names[-1] == "running"
        return P(SEED_AXIS, ENV_AXIS) if per_environment else P(SEED_AXIS)

    return jax.tree_util.tree_map_with_path(place, state)


def _spread(f: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Run f on each device's share of the runs and environments."""
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@partial(jax.jit, static_argnums=(0, 1))
def _start(trainer: Trainer, mesh: Mesh, algorithm: Algorithm, keys: Array) -> TrainState:
    every = jax.vmap(trainer.init)
    out = placed_as(jax.eval_shape(every, algorithm, keys))
    return _spread(every, mesh, (P(SEED_AXIS), P(SEED_AXIS)), out)(algorithm, keys)


@partial(jax.jit, static_argnums=0)
def _pick(mesh: Mesh, state: TrainState, i: int) -> TrainState:
    """Run i, on every device."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[i], state), NamedSharding(mesh, P()))


def advanced(
    trainer: Trainer, updates: int, mesh: Mesh, algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """`run_updates` of every run, to be compiled; limits are (total_steps, max_skipped)."""

    def one(
        algorithm: Algorithm, state: TrainState, limits: tuple[Array, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        total_steps, max_skipped = limits
        return run_updates(trainer, algorithm, state, total_steps, updates, max_skipped)

    every, placed = jax.vmap(one, in_axes=(0, 0, None)), placed_as(state)
    return _spread(every, mesh, (P(SEED_AXIS), placed, P()), (placed, P(SEED_AXIS)))(algorithm, state, limits)


_advance = jax.jit(advanced, static_argnums=(0, 1, 2))
_advance_donated = jax.jit(advanced, static_argnums=(0, 1, 2), donate_argnums=4)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _evaluate(
    environment: Environment, agent: Agent, episodes: int, greedy: bool, mesh: Mesh, each: tuple, key: Array
) -> Array:
    def one(each: tuple[Params, Any], key: Array) -> Array:
        params, values = each
        how = {"episodes": episodes, "greedy": greedy, "environment_parameters": values}
        return evaluate(environment, agent, params, key, **how)

    return _spread(jax.vmap(one, in_axes=(0, None)), mesh, (P(SEED_AXIS), P()), P(SEED_AXIS))(each, key)
