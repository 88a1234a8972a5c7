"""How much faster are more devices and more processes, and how much do they communicate?

Trains the same 16 seeds of REINFORCE and of PPO on one device with one core, on 2, 4 and 8 virtual devices, and in two
processes connected over loopback. It also counts the collectives of the compiled programs. Finally four devices share
one PPO batch, to show when float32 rounding makes the run differ from that on one device.

Expect no collective along the seeds and nearly twice the speed with two cores. Eight virtual devices on them cost at
most a seventh of that speed. Ten minutes on an otherwise idle machine; --quick starts as many processes and takes two.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from matplotlib import pyplot as plt
from parts import results
from parts.collectives import traffic
from parts.command import as_script, refuse
from parts.shapes import Shape, built, ppo_shape, reinforce_shape
from parts.tables import fitted

from pgjax import sweeps, use_cpu_devices
from pgjax.engine import hosts
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.joining import joined

SEEDS = 16
SHAPES = {"reinforce": reinforce_shape(64, 500, SEEDS, 30), "ppo": ppo_shape(4, 128, SEEDS, 60)}
QUICK = {"reinforce": reinforce_shape(4, 20, 8, 2), "ppo": ppo_shape(4, 8, 8, 2)}
DEVICES = (1, 2, 4, 8)
DRIFT_UPDATES = 200
SHARING = 4  # devices that share one batch
FOUND = "found "  # prefix of the result line; other lines are logs of the transport


@dataclass(frozen=True)
class Options(results.Options):
    """Options of the measurements."""

    limit: int = 300
    """Seconds after which a measurement is killed."""
    part: Literal["all", "rate", "traffic", "drift"] = "all"
    """A single measurement, run in a separate process; "all" starts them."""
    method: Literal["reinforce", "ppo"] = "reinforce"
    """Of that measurement."""
    devices: int = 1
    """Of that measurement."""
    processes: int = 1
    """Of that measurement."""
    process_id: int = 0
    """Index of this process."""
    coordinator: str = "127.0.0.1:0"
    """HOST:PORT of process 0."""


def main(options: Options) -> None:
    """Run one measurement, or start all of them."""
    if options.part != "all":
        refuse(options, ["out", "limit"], "a single part only prints its result")
        settings = Settings(
            distributed=options.processes > 1,
            coordinator=options.coordinator,
            processes=options.processes,
            process_id=options.process_id,
        )
        with joined(settings):
            use_cpu_devices(options.devices)
            found = {"rate": rate, "traffic": communication, "drift": drift}[options.part](options)
            if hosts.is_first():
                print(FOUND + json.dumps(found))
        return
    refuse(options, ["method", "devices", "processes", "process_id", "coordinator"], "it is for one --part")
    rates = {method: rates_of(options, method) for method in SHAPES}
    counted = {method: measure(options, "traffic", method, 8)[0] for method in SHAPES}
    differences = measure(options, "drift", "ppo", SHARING)[0]
    show(rates, counted)
    draw(options, rates, differences)


def shape_of(options: Options) -> Shape:
    """The shape to train."""
    return (QUICK if options.quick else SHAPES)[options.method]


def rate(options: Options) -> float:
    """Environment steps per second of all seeds once episodes have their final length; median of five."""
    shape = shape_of(options)
    _, _, trainer = built(shape)
    runs = sweeps.start(trainer, shape.recipe.algorithm, seeds=shape.seeds)
    seconds, steps = [], []
    for _ in range(3 if options.quick else 8):  # the first ones compile and train
        begun, before = time.perf_counter(), hosts.fetch(runs.state.env_steps).sum(dtype=float)
        runs, metrics = sweeps.advance(trainer, runs, 1 << 30, shape.updates)
        seconds.append(time.perf_counter() - begun)
        steps.append(metrics["env_steps"][:, -1].sum(dtype=float) - before)
    return float(np.median(np.array(steps[-5:]) / np.array(seconds[-5:])))


def communication(options: Options) -> dict[str, Any]:
    """Collectives and bytes per update, along seeds and along environments."""
    shape = shape_of(options)
    _, _, trainer = built(shape)
    found = {}
    for axis, seeds, mesh in (("seed", shape.seeds, (8, 1)), ("env", 1, (1, SHARING))):
        runs = sweeps.start(trainer, shape.recipe.algorithm, seeds=seeds, mesh=mesh)
        program = sweeps.compiled(trainer, runs, 2)
        per_update = traffic(program.as_text())
        found[axis] = [per_update.calls / 2, per_update.bytes / 2]
    return found


def drift(options: Options) -> list[float]:
    """Largest parameter difference between one device and several that share its batches, update by update."""
    shape = shape_of(options)
    _, _, trainer = built(shape)
    updates = 4 if options.quick else DRIFT_UPDATES
    pair = [sweeps.start(trainer, shape.recipe.algorithm, mesh=(1, sharing)) for sharing in (1, SHARING)]
    differences = []
    for _ in range(updates):
        pair = [sweeps.advance(trainer, runs, 1 << 30, 1)[0] for runs in pair]
        one, other = (jax.tree.leaves(hosts.fetch(runs.state.params)) for runs in pair)
        differences.append(max(float(np.max(np.abs(a - b))) for a, b in zip(one, other, strict=True)))
    return differences


def rates_of(options: Options, method: str) -> dict[str, float]:
    """Steps per second by layout."""
    layouts: dict[str, dict[str, Any]] = {"1 device, 1 core": {"devices": 1, "cores": [0]}}
    layouts |= {f"{devices} devices": {"devices": devices} for devices in DEVICES[1:]}
    layouts["2 processes"] = {"devices": 1, "cores": [0, 1], "count": 2}
    rates = {}
    for name, layout in layouts.items():
        [rates[name]] = measure(options, "rate", method, **layout)
        print(f"{method}, {name}: {rates[name]:,.0f} steps/s", flush=True)
    return rates


def measure(
    options: Options, part: str, method: str, devices: int, cores: Sequence[int] = (), count: int = 1
) -> list[Any]:
    """Run a measurement in `count` processes, each pinned to a core if `cores` are given; killed if it hangs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--part", part, "--method", method, "--devices", devices, "--processes", count, "--coordinator", place]
    started = []
    for i in range(count):
        command = [sys.executable, __file__, *map(str, flags), "--process-id", str(i), *["--quick"] * options.quick]
        held = [{cores[i]}] if cores else [os.sched_getaffinity(0)]
        hold = lambda core=held[0]: os.sched_setaffinity(0, core)  # noqa: E731
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hold))
    end, answers = time.monotonic() + options.limit, []
    try:
        for process in started:
            text, _ = process.communicate(timeout=max(1, end - time.monotonic()))
            if process.returncode:
                raise SystemExit(f"{part} of {method} on {devices} devices ended with {process.returncode}")
            lines = [line for line in text.splitlines() if line.startswith(FOUND)]
            answers += [json.loads(line.removeprefix(FOUND)) for line in lines]
    finally:
        for process in started:
            process.kill()
    return answers


def show(rates: dict[str, dict[str, float]], counted: dict[str, Any]) -> None:
    """Print the rates and the communication."""
    print(f"\n{SEEDS} seeds on {os.cpu_count()} cores, jax {jax.__version__}: steps/s (× one core)\n")
    rows = [["", *next(iter(rates.values()))]]
    for method, found in rates.items():
        base = next(iter(found.values()))
        rows.append([method, *(f"{x / 1e3:,.0f}k ({x / base:.2f})" for x in found.values())])
    print(fitted(rows))
    print("\nper update, from the compiled program: collectives, kB that each device contributes\n")
    rows = [["", "along seeds", "along environments"]]
    for method, found in counted.items():
        rows.append([method, *(f"{found[axis][0]:g}, {found[axis][1] / 1e3:,.1f}" for axis in ("seed", "env"))])
    print(fitted(rows))


def draw(options: Options, rates: dict[str, dict[str, float]], differences: list[float]) -> None:
    """Speed against devices, and the drift between two orders of summation."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = []
    for i, (method, found) in enumerate(rates.items()):
        names, values = list(found), np.array(list(found.values()))
        counts = DEVICES[: len(values) - 1]
        left.plot(counts, values[:-1] / values[0], "o-", color=f"C{i}", label=f"{method}, virtual devices")
        left.plot([2], values[-1:] / values[0], "*", markersize=11, color=f"C{i}", label=f"{method}, 2 processes")
        rows += [(method, name, value, value / values[0]) for name, value in zip(names, values, strict=True)]
    left.axhline(os.cpu_count() or 1, color="0.6", linestyle="--", label="cores")
    left.set(xscale="log", xticks=DEVICES, xticklabels=DEVICES, xlabel="devices", ylabel="× one device on one core")
    left.set_ylim(0, None)
    left.legend(frameon=False, fontsize=8)
    right.plot(np.arange(1, len(differences) + 1), np.maximum(differences, 1e-9), color="C0")
    right.axhline(1e-5, color="0.6", linestyle="--")
    right.set(yscale="log", xscale="log", xlabel="update", ylabel="largest difference of a parameter")
    right.set_title(f"PPO, one batch on {SHARING} devices against 1", fontsize=10)
    left.minorticks_off()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    rows += [
        ("ppo", f"{SHARING} devices share a batch, update {u}", float("nan"), differences[u - 1])
        for u in marks(differences)
    ]
    columns = ("method", "layout", "steps_per_second", "ratio_or_difference")
    options.write("scaling", figure, columns, rows)


def marks(differences: list[float]) -> list[int]:
    """Updates that the CSV file lists."""
    return [u for u in (1, 5, 20, 50, 100, 200) if u <= len(differences)]


if __name__ == "__main__":
    as_script(main, Options, __doc__)
