"""Runs: seeds × settings on a mesh of devices, and their initialisation."""

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
from pgjax.methods.hyperparameters import (
    ENVIRONMENT_PREFIX,
    check_hyperparameters,
    check_single_numbers,
    with_hyperparameters,
)
from pgjax.training.sharing import plan
from pgjax.types import Algorithm, SettingError, Trainer, TrainState, check_algorithm

Over = Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]]
"""Swept hyperparameters: name -> values, run in all combinations, or a list of settings."""


SHOWN = 20
"""Number of rows shown in a notebook."""


class Runs(NamedTuple):
    """Many training runs, settings × seeds flattened to one axis of R runs, settings first."""

    seeds: np.ndarray  # of each run, [R]
    settings: dict[str, np.ndarray]  # name -> value of each run, [R]
    algorithm: Algorithm  # leaves [R]
    state: TrainState  # leaves [R, ...]
    mesh: Mesh  # the devices that the runs are spread over

    def find(self, **wanted: float) -> int:
        """The position of the first run with this `seed` and these settings; omitted ones match any value.

        Seeds are compared exactly, settings as float32. Raises a SettingError if there is no such run.
        """
        columns = self.settings | {"seed": self.seeds}
        match = np.ones(len(self.seeds), bool)
        for name, value in wanted.items():
            if name not in columns:
                raise SettingError(name, value, f"was not swept; swept: {', '.join(columns)}")
            if name == "seed":
                match &= self.seeds == counters.seed(value)
            else:
                match &= np.float32(columns[name]) == np.float32(value)
            if not match.any():
                raise SettingError(name, value, f"is not among the runs, which have {_in_words(columns[name])}")
        return int(np.argmax(match))

    def pick(self, **wanted: float) -> TrainState:
        """The state of one run, for instance `runs.pick(seed=3, learning_rate=0.01).params`, as local arrays."""
        state = _pick(self.mesh, self.state, self.find(**wanted))
        return jax.tree.map(lambda x: x.addressable_data(0), state)

    def with_hyperparameters(self, **values: ArrayLike) -> "Runs":
        """The same runs with other hyperparameters: for each name one number, or one for every run, [R].

        Names are those of `pgjax.hyperparameters`; a name with a dot is given as `**{"environment.length": 0.7}`.

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
        check_single_numbers(jax.tree.map(lambda x: x[0], self.algorithm), columns)
        algorithm = with_hyperparameters(self.algorithm, columns)
        if jax.tree.structure(algorithm) != jax.tree.structure(self.algorithm):
            raise SettingError(
                "hyperparameters", list(values), "must be hyperparameters that these runs were started with"
            )
        check_hyperparameters(algorithm)
        settings = {name: np.asarray(columns.get(name, x)) for name, x in self.settings.items()}
        return self._replace(algorithm=algorithm, settings=settings)

    def save(self, path: str | Path) -> None:
        """Write everything to an npz file (without pickle), from which `pgjax.sweeps.load` continues."""
        from pgjax.sweeps.saved import save

        save(self, path)

    def __repr__(self) -> str:
        """Number of runs, swept values and environment steps."""
        lines = [f"{name}: {_in_words(values)}" for name, values in {"seed": self.seeds, **self.settings}.items()]
        lines.append(f"env_steps: {_in_words(hosts.fetch(self.state.env_steps), ends=True)}")
        return f"Runs({len(self.seeds)} of {'; '.join(lines)})"

    def _repr_html_(self) -> str:
        """A table with a row for each of the first runs."""
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
      algorithm: hyperparameters that are not swept: numbers, or arrays such as a discount for each environment.
      seeds: how many (0, 1, …) or which: different integers from 0 to 2³¹ − 1.
      over: hyperparameter name -> values, run in all combinations; or a list of settings. Each value is a number. A
        name such as "environment.length" refers to `Environment.parameters`.
      paired: run the i-th setting with the i-th seed, instead of every setting with every seed.
      devices: which to use; default all, of all processes. Runs are spread over as many devices as divide their number,
        without communication. Remaining devices share the environments of each batch if batches are large.
      mesh: (devices along runs, devices that share each batch's environments), instead of this choice.

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
    check_single_numbers(algorithm, settings)
    whole = with_hyperparameters(algorithm, settings)
    check_hyperparameters(whole)
    varying = {name: settings.get(ENVIRONMENT_PREFIX + name, x) for name, x in (whole.environment or {}).items()}
    check_parameters(trainer.environment, {name: np.unique(np.asarray(x)).tolist() for name, x in varying.items()})
    same = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *jnp.shape(x))), algorithm)
    columns = {name: jnp.asarray(values, jnp.float32) for name, values in settings.items()}
    stacked = with_hyperparameters(same, columns)
    seed_of = np.tile(chosen, times)
    spread = plan(trainer, algorithm, count, devices=devices, mesh=mesh)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seed_of, jnp.uint32))
    return Runs(seed_of, settings, stacked, _start(trainer, spread, stacked, keys), spread)


def check_runs(trainer: Trainer, algorithm: Algorithm, seeds: int, count: int) -> None:
    """Raise a SettingError for more runs than fit in memory, before any is made."""
    if count >= LARGE:
        of_one = jax.tree.leaves(jax.eval_shape(trainer.init, algorithm, jax.random.key(0)))
        needed = count * sum(leaf.size * leaf.dtype.itemsize for leaf in of_one)
        check_room("seeds", seeds, needed, "the states of the runs")


def take(trainer: Trainer, runs: Runs, positions: Sequence[int], devices: Sequence[Any] | None = None) -> Runs:
    """The runs at these positions in their current state, spread over the devices anew."""
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
            if not isinstance(name, str):
                raise SettingError("over", name, "must be the name of a hyperparameter")
            if np.ndim(values) == 0:
                raise SettingError(name, values, "must be a list of the values to sweep")
            if len(values) == 0:
                raise SettingError(name, list(values), "has no values to sweep")
        listed = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    else:
        settings = list(over)
        mappings = all(isinstance(setting, Mapping) for setting in settings)
        listed = [dict(setting) for setting in settings] if mappings else []
        if not listed or any(setting.keys() != listed[0].keys() for setting in listed):
            raise SettingError("over", settings, "must be one or more settings of the same hyperparameters")
    for name, value in (pair for setting in listed for pair in setting.items()):
        if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf":
            raise SettingError(name, value, "cannot be swept: each value must be one number")
    return listed


def _in_words(column: np.ndarray, *, ends: bool = False) -> str:
    """The different values of a column, at most ten of them; or only the lowest and highest."""
    values = [str(value) for value in np.unique(column)]
    if ends:
        return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return ", ".join(values if len(values) <= 10 else [*values[:8], "…", values[-1]])


def placed(state: TrainState) -> Any:
    """The PartitionSpec of each leaf [R, ...] or [R, N, ...] of a state."""

    def place(path: tuple, _: Any) -> P:
        names = [getattr(key, "name", None) for key in path]
        per_environment = names[0] == "rollout_state" or names[-1] == "running"
        return P(SEED_AXIS, ENV_AXIS) if per_environment else P(SEED_AXIS)

    return jax.tree_util.tree_map_with_path(place, state)


def spread_over(f: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """Run f on each device's share of the runs and environments.

    Arrays without elements are created on each device instead of passed: Shardy, the partitioner of jaxlib 0.11,
    crashes (segmentation fault) on functions with such arguments. States of MJX, navix and XLand-MiniGrid contain them.
    """
    if mesh.size == 1:
        return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def spread(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        specs = jax.tree.leaves(jax.tree.broadcast(in_specs, args, is_leaf=_is_spec), is_leaf=_is_spec)
        nonempty = [np.size(x) > 0 for x in leaves]

        def share(*given: Any) -> Any:
            rest = iter(given)
            local = [
                next(rest) if filled else jnp.zeros(_share_of(x.shape, spec, mesh), x.dtype)
                for filled, x, spec in zip(nonempty, leaves, specs, strict=True)
            ]
            return _with_local_empty_arrays(f)(*jax.tree.unflatten(structure, local))

        given, given_specs = (tuple(x for x, ok in zip(xs, nonempty, strict=True) if ok) for xs in (leaves, specs))
        return jax.shard_map(share, mesh=mesh, in_specs=given_specs, out_specs=out_specs, check_vma=False)(*given)

    return spread


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def _share_of(shape: tuple[int, ...], spec: P, mesh: Mesh) -> tuple[int, ...]:
    """The shape of one device's share."""
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    return tuple(size // (1 if axis is None else mesh.shape[axis]) for size, axis in zip(shape, axes, strict=True))


def _with_local_empty_arrays(f: Any) -> Any:
    """The same function, with empty arrays that it closes over created inside."""

    def same(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        constants = [jnp.zeros(x.shape, x.dtype) if np.size(x) == 0 else x for x in traced.consts]
        flat = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return same


# Without optimisation, because it runs once and optimising it takes longer than running it.
@partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": "0"})
def _start(trainer: Trainer, mesh: Mesh, algorithm: Algorithm, keys: Array) -> TrainState:
    all_runs = jax.vmap(trainer.init)
    out = placed(jax.eval_shape(all_runs, algorithm, keys))
    return spread_over(all_runs, mesh, (P(SEED_AXIS), P(SEED_AXIS)), out)(algorithm, keys)


@partial(jax.jit, static_argnums=0)
def _pick(mesh: Mesh, state: TrainState, i: int) -> TrainState:
    """Run i, replicated on every device."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[i], state), NamedSharding(mesh, P()))
