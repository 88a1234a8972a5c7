"""How many environment steps per second does training take, and what limits it?

Every shape is trained from scratch several times, and the median is reported; compilation is timed separately. The
same process also times parts of an update alone: rollouts with the policy only and with random actions, and the
gradients of the networks. The arithmetic that an update needs is given as a share of the rate of a large matrix
product. PPO and A2C of other libraries run with the same settings (`pip install "policy-gradients-jax[bench]"`).

Expect PPO to be faster than rejax in every shape on two CPU cores, by most with many environments or seeds. Expect the
rollout to dominate the time of REINFORCE. Run nothing else at the same time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from parts import peers, results
from parts.command import as_script, refuse
from parts.growth import drawn, growth
from parts.overhead import overhead
from parts.shapes import QUICK, SHAPES, Shape, built, flops_per_step, ppo_shape
from parts.tables import fitted, wrapped
from parts.update_parts import gradient_seconds, rollout_seconds, timed

from pgjax import (
    counters,
    evaluate_runs,
    sweeps,
    use_cpu_devices,
)
from pgjax.engine import devices
from pgjax.runs.record.provenance import processor
from pgjax.runs.record.texts import write_text
from pgjax.types import Trainer

FEW = {"repeats": 2}  # for --quick
SEEDS_SHAPE = next(shape for shape in SHAPES if shape.seeds == 16)  # for --overhead


@dataclass(frozen=True)
class Options(results.Options):
    """Options of the benchmark."""

    json: Path | None = None
    """JSON file for all numbers."""
    repeats: int = 5
    """Trainings per shape, of which the median is reported."""
    peers: bool = True
    """Also measure the other libraries that are installed."""
    scaling: bool = True
    """Draw training time against updates, environments, seeds and parameters."""
    devices: int = 0
    """Number of CPU cores to use as devices (0: all). Other libraries use the first one, and are a little faster with
    1."""
    overhead: bool = False
    """Measure only the overhead of the progress bar and a callback, in --repeats pairs of trainings of 16 seeds."""
    only: str = ""
    """Measure only shapes whose name contains this text."""


class Entry(NamedTuple):
    """One measurement; rates are executed environment steps per second, of all seeds together."""

    name: str
    steps_per_second: float
    slowest: float
    fastest: float
    compile_seconds: float
    final_return: float
    policy_rollout_share: float = float("nan")  # time of the rollout with the policy only / time of the update
    random_rollout_share: float = float("nan")
    gradient_share: float = float("nan")  # time of the gradients of the networks alone / time of the update
    share_of_peak: float = float("nan")


def main(options: Options) -> None:
    """Measure everything, print the table and write the files asked for."""
    if options.overhead:
        refuse(options, ["json", "peers", "scaling", "only", "out"], "--overhead is one measurement")
        use_cpu_devices(options.devices or None)
        shape = QUICK[0] if options.quick else SEEDS_SHAPE
        found = overhead(shape, counters.count("repeats", options.repeats))
        print(f"{shape.name} on {devices_in_words()}, {found.calls} chunks")
        print(found.in_words())
        return
    if not options.scaling:
        refuse(options, ["out"], "without --scaling there is no figure; --json writes the numbers")
    use_cpu_devices(options.devices or None)  # no compilation cache, because compilation is timed
    shapes = [s for s in (QUICK if options.quick else SHAPES) if options.only in s.name]
    repeats, measured = counters.count("repeats", options.repeats), 4_000 if options.quick else 400_000
    entries = []
    peak = matrix_rate(256 if options.quick else 2048)
    for shape in shapes:
        entries.append(of_pgjax(shape, repeats, measured, peak))
        print(f"{entries[-1].name}: {entries[-1].steps_per_second:,.0f} steps/s", flush=True)
    if options.peers:
        entries += of_peers(options, repeats)
    show(entries, peak)
    if options.json:
        record = {"devices": devices_in_words(), "jax": jax.__version__, "entries": [e._asdict() for e in entries]}
        write_text(options.json, json.dumps(record, indent=2) + "\n")
    if options.scaling:
        draw_growth(options)


def devices_in_words() -> str:
    """Number, model and platform of the devices."""
    devices = jax.devices()
    model = processor() if devices[0].platform == "cpu" else devices[0].device_kind
    return f"{len(devices)} × {model} ({devices[0].platform})"


def of_pgjax(shape: Shape, repeats: int, measured: int, peak: float) -> Entry:
    """Train a shape from scratch several times, then time `measured` steps of its rollouts alone."""
    environment, agent, trainer = built(shape)
    runs, seconds, compiling = timed(partial(trained, shape, trainer), repeats)
    steps = int(np.asarray(runs.state.env_steps).sum())
    returns = evaluate_runs(environment, agent, runs, jax.random.key(1 << 31), episodes=peers.EVALUATION_EPISODES)
    update = float(np.median(seconds)) / shape.updates
    acting, idle = (rollout_seconds(environment, agent, shape, runs, measured, random=r) for r in (False, True))
    share = steps / shape.updates * flops_per_step(environment, agent, shape) / update / peak
    learning = gradient_seconds(environment, agent, shape, runs, steps / shape.updates)
    shares = acting / update, idle / update, learning / update, share
    return entry(f"pgjax/{shape.name}", steps, seconds, compiling, float(returns.mean()), *shares)


def trained(shape: Shape, trainer: Trainer) -> sweeps.Runs:
    """A shape trained from scratch."""
    runs = sweeps.start(trainer, shape.recipe.algorithm, seeds=shape.seeds)
    return sweeps.advance(trainer, runs, 1 << 30, shape.updates)[0]


def entry(name: str, steps: int, seconds: Sequence[float], compiling: float, final: float, *shares: float) -> Entry:
    """An `Entry` from seconds per training."""
    rates = [steps / s for s in seconds]
    return Entry(name, float(np.median(rates)), min(rates), max(rates), compiling, final, *shares)


def matrix_rate(size: int) -> float:
    """Floating-point operations per second of a matrix product of this size, on all devices together."""
    mesh = devices.make_mesh(jax.device_count())
    product = jax.jit(jax.shard_map(lambda x: x @ x[0], mesh=mesh, in_specs=P("seed"), out_specs=P("seed")))
    x = jnp.ones((jax.device_count(), size, size))
    return 2 * size**3 * jax.device_count() / float(np.median(timed(lambda: product(x), 4)[1]))


def of_peers(options: Options, repeats: int) -> list[Entry]:
    """Measure the other libraries in the same shapes."""
    small = options.quick
    contestants: dict[str, Callable[[], peers.Train]] = {}
    for num_envs, seeds, updates in ((4, 1, 600), (4, 16, 300), (1024, 1, 20)):
        name = ppo_shape(num_envs, 128, seeds, 1).name
        steps = num_envs * 128 * (2 if small else updates)
        contestants[f"rejax/{name}"] = lambda n=num_envs, s=seeds, t=steps: peers.rejax_ppo("CartPole-v1", n, 128, s, t)
    for kind, num_envs, num_steps in (("a2c", 16, 5), ("ppo", 4, 128)):
        contestants[f"stable-baselines3/{kind}-{num_envs}x{num_steps}"] = lambda k=kind, n=num_envs, t=num_steps: (
            peers.stable_baselines3(k, "CartPole-v1", n, t, peers.PASSES, 1_000 if small else 60_000)
        )
    entries = []
    for name, make in contestants.items():
        if options.only not in name:
            continue
        try:
            train = make()
        except ImportError as error:
            print(f"{name}: not measured, {error.name} is not installed", flush=True)
            continue
        (measured, steps), seconds, compiling = timed(partial(train, 0), repeats)
        entries.append(entry(name, steps, seconds, compiling, measured()))
        print(f"{name}: {entries[-1].steps_per_second:,.0f} steps/s", flush=True)
    return entries


def show(entries: Sequence[Entry], peak: float) -> None:
    """Print the table, with ratios to the other libraries."""
    head = (
        "shape",
        "steps/s",
        "range",
        "compile s",
        "return",
        "policy rollout",
        "random rollout",
        "gradients",
        "of peak",
        "vs rejax",
    )
    known = {e.name: e.steps_per_second for e in entries}
    rows: list[Sequence[str]] = [head]
    for e in entries:
        shares = ["" if np.isnan(x) else f"{x:.0%}" for x in e[6:]]
        other = known.get(e.name.replace("pgjax/", "rejax/")) if e.name.startswith("pgjax/") else None
        ratio = f"{e.steps_per_second / other:.2f} ×" if other else ""
        spread = f"{e.slowest / 1e3:,.0f}–{e.fastest / 1e3:,.0f}k"
        numbers = f"{e.steps_per_second:,.0f}", spread, f"{e.compile_seconds:.1f}", f"{e.final_return:.1f}"
        rows.append((e.name, *numbers, *shares, ratio))
    about = f"training on {devices_in_words()}, jax {jax.__version__}; matrix product {peak / 1e9:,.0f} GFLOP/s"
    print(f"\n{wrapped(about)}\n\n{fitted(rows)}\n")


def draw_growth(options: Options) -> None:
    """How the time of training grows with each of its sizes."""

    def measure(shape: Shape) -> tuple[float, int]:
        runs, seconds, _ = timed(partial(trained, shape, built(shape)[2]), 3)
        return float(np.median(seconds)), int(np.asarray(runs.state.env_steps).sum())

    found = growth(measure, options.quick)
    for one in found:
        print(f"time against {one.label}: slope {one.slope:.2f} on logarithmic axes")
    rows = [(one.label, n, s, one.steps[n]) for one in found for n, s in one.seconds.items()]
    figure = drawn(found, f"Training PPO on CartPole-v1, 128 steps per batch: {devices_in_words()}")
    options.write("benchmark", figure, ("size", "count", "seconds", "steps"), rows)


if __name__ == "__main__":
    as_script(main, Options, __doc__, FEW)
