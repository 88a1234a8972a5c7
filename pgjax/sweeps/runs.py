"""Runs: seeds × settings side by side on a mesh of devices, and how they begin."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from pgjax import counters
from pgjax.engine import hosts
from pgjax.engine.devices import SEED_AXIS
from pgjax.engine.memory import LARGE, check_room
from pgjax.environments.parameters import check_parameters
from pgjax.estimators.reductions import ENV_AXIS
from pgjax.methods.hyperparameters import OF_THE_ENVIRONMENT, check_hyperparameters, with_hyperparameters
from pgjax.training.sharing import plan
from pgjax.types import Algorithm, SettingError, Trainer, TrainState, check_algorithm

Over = Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]]
"""What a sweep runs over: names -> values, of which every combination is run, or a list of settings."""


SHOWN = 20
"""Rows of a table in a notebook."""


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

    def with_hyperparameters(self, **values: ArrayLike) -> "Runs":
        """The same runs with other numbers from here on: for each name one number, or one for every run, [R].

        Names are those of `pgjax.hyperparameters`; a name with a dot is given as `**{"environment.length": 0.7}`.

        Raises:
          SettingError: for a name that the algorithm does not have, or a number that cannot work.

        >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
        >>> env = environments.make("SimpleBandit-bsuite")
        >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
        >>> runs = sweeps.start(trainer, reinforce().algorithm, over={"learning_rate": [0.1, 0.01]})
        >>> runs.with_hyperparameters(learning_rate=0.5).settings["learning_rate"].tolist()
        [0.5, 0.5]
        """
        count = len(self.seeds)
        for name, value in values.items():
            if np.shape(value) not in ((), (count,)):
                raise SettingError(
                    name, f"of shape {np.shape(value)}", f"must be one number, or one for each of {count} runs"
                )
        columns = {name: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count,)) for name, x in values.items()}
        algorithm = with_hyperparameters(self.algorithm, columns)
        if jax.tree.structure(algorithm) != jax.tree.structure(self.algorithm):
            raise SettingError("hyperparameters", list(values), "are not all among those that these runs began with")
        check_hyperparameters(algorithm)
        settings = {name: np.asarray(columns.get(name, x)) for name, x in self.settings.items()}
        return self._replace(algorithm=algorithm, settings=settings)

    def save(self, path: str | Path) -> None:
        """Write everything to a file, so that `pgjax.sweeps.load` goes on from here: npz, without pickle.

        Raises:
          OSError: if it cannot be written.
        """
        from pgjax.sweeps.saved import save

        save(self, path)

    def __repr__(self) -> str:
        """How many, what was swept, and how far they are."""
        lines = [f"{name}: {_in_words(values)}" for name, values in {"seed": self.seeds, **self.settings}.items()]
        lines.append(f"env_steps: {_in_words(hosts.fetch(self.state.env_steps), ends=True)}")
        return f"Runs({len(self.seeds)} of {'; '.join(lines)})"

    def _repr_html_(self) -> str:
        """A row for each of the first runs."""
        columns = {"seed": self.seeds, **self.settings, "env_steps": hosts.fetch(self.state.env_steps)}
        columns |= {"updates": hosts.fetch(self.state.update), "skipped": hosts.fetch(self.state.skipped)}
        rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in columns)}</tr>"]
        for row in list(zip(*columns.values(), strict=True))[:SHOWN]:
            rows.append(f"<tr>{''.join(f'<td>{x:,.6g}</td>' for x in row)}</tr>")
        more = len(self.seeds) - SHOWN
        return f"<table>{''.join(rows)}</table>" + (f"<p>and {more} more</p>" if more > 0 else "")


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
    check_algorithm(algorithm)
    chosen = counters.seeds(seeds)
    combinations = _combinations({} if over is None else over)
    if paired and len(combinations) != len(chosen):
        raise SettingError("over", len(combinations), f"settings cannot be paired with {len(chosen)} seeds")
    each, times = (1, 1) if paired else (len(chosen), len(combinations))
    count = len(combinations) * each
    check_runs(trainer, algorithm, len(chosen), count)
    settings = {name: np.repeat([c[name] for c in combinations], each) for name in combinations[0]}
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


def check_runs(trainer: Trainer, algorithm: Algorithm, seeds: int, count: int) -> None:
    """Refuse more runs than there is memory for, before anything is made for each.

    Raises:
      SettingError: with both amounts.
    """
    if count >= LARGE:
        of_one = jax.tree.leaves(jax.eval_shape(trainer.init, algorithm, jax.random.key(0)))
        needed = count * sum(leaf.size * leaf.dtype.itemsize for leaf in of_one)
        check_room("seeds", seeds, needed, "the states of as many runs")


def take(trainer: Trainer, runs: Runs, positions: Sequence[int], devices: Sequence[Any] | None = None) -> Runs:
    """The runs at these positions, as they stand, spread anew: the others' share of the devices becomes theirs.

    Args:
      trainer: what runs.
      runs: all of them.
      positions: which, each once.
      devices: where; default all.

    >>> from pgjax import Config, environments, make_agent, make_trainer, reinforce, sweeps
    >>> env = environments.make("SimpleBandit-bsuite")
    >>> trainer = make_trainer(env, make_agent(env, hidden=()), Config(num_envs=2))
    >>> runs = sweeps.start(trainer, reinforce().algorithm, seeds=4)
    >>> sweeps.take(trainer, runs, [3, 1]).seeds.tolist()
    [3, 1]
    """
    chosen = np.asarray(positions, int)
    algorithm, state = jax.tree.map(lambda x: x[chosen], (runs.algorithm, runs.state))
    mesh = plan(trainer, jax.tree.map(lambda x: x[0], algorithm), len(chosen), devices=devices)
    where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), placed(state))
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


def _in_words(column: np.ndarray, *, ends: bool = False) -> str:
    """The different values of a column, at most ten of them; or its ends."""
    values = [str(value) for value in np.unique(column)]
    if ends:
        return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return ", ".join(values if len(values) <= 10 else [*values[:8], "…", values[-1]])


def placed(state: TrainState) -> Any:
    """Where each leaf [R, ...] or [R, N, ...] of a state lies."""

    def place(path: tuple, _: Any) -> P:
        names = [getattr(key, "name", None) for key in path]
        per_environment = names[0] == "rollout_state" or names[-1] == "running"
        return P(SEED_AXIS, ENV_AXIS) if per_environment else P(SEED_AXIS)

    return jax.tree_util.tree_map_with_path(place, state)


def spread_over(f: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Run f on each device's share of the runs and environments.

    Arrays without elements, of the arguments or closed over, are made on each device instead of given to it. Shardy,
    the partitioner of jaxlib 0.11, ends the process by a segmentation fault while it compiles a function mapped over
    devices that is given some; states of MJX, navix and XLand-MiniGrid hold them.
    """
    if mesh.size == 1:
        return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def spread(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        specs = jax.tree.leaves(jax.tree.broadcast(in_specs, args, is_leaf=_is_spec), is_leaf=_is_spec)
        given = [np.size(x) > 0 for x in leaves]

        def share(*filled: Any) -> Any:
            rest = iter(filled)
            local = [
                next(rest) if there else jnp.zeros(_share_of(x.shape, spec, mesh), x.dtype)
                for there, x, spec in zip(given, leaves, specs, strict=True)
            ]
            return _made_within(f)(*jax.tree.unflatten(structure, local))

        filled, of_filled = (tuple(x for x, there in zip(xs, given, strict=True) if there) for xs in (leaves, specs))
        return jax.shard_map(share, mesh=mesh, in_specs=of_filled, out_specs=out_specs, check_vma=False)(*filled)

    return spread


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def _share_of(shape: tuple[int, ...], spec: P, mesh: Mesh) -> tuple[int, ...]:
    """The shape of one device's share."""
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    return tuple(size // (1 if axis is None else mesh.shape[axis]) for size, axis in zip(shape, axes, strict=True))


def _made_within(f: Any) -> Any:
    """The same function; arrays without elements that it closes over are made in it."""

    def same(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        constants = [jnp.zeros(x.shape, x.dtype) if np.size(x) == 0 else x for x in traced.consts]
        flat = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return same


# It runs once: optimising it would take longer than running it.
@partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": "0"})
def _start(trainer: Trainer, mesh: Mesh, algorithm: Algorithm, keys: Array) -> TrainState:
    every = jax.vmap(trainer.init)
    out = placed(jax.eval_shape(every, algorithm, keys))
    return spread_over(every, mesh, (P(SEED_AXIS), P(SEED_AXIS)), out)(algorithm, keys)


@partial(jax.jit, static_argnums=0)
def _pick(mesh: Mesh, state: TrainState, i: int) -> TrainState:
    """Run i, on every device."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[i], state), NamedSharding(mesh, P()))
