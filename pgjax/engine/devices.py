"""Device meshes (seed, env): along runs and along each batch's environments, over one process or several."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pgjax.estimators.reductions import ENV_AXIS
from pgjax.types import SettingError

SEED_AXIS = "seed"  # along runs; along ENV_AXIS, devices share each run's environments


def make_mesh(runs: int, shares: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh (seed, env): first over as many devices as divide the runs, then as many as divide the batch's `shares`,
    the largest number of parts that its environments can be split into.

    Several processes must use all of their devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    seeds = _largest_divisor(runs, len(devices))
    sharing = _largest_divisor(shares, len(devices) // seeds)
    _require_all_processes(runs, seeds * sharing, devices)
    return _mesh(seeds, sharing, devices)


def asked_mesh(seeds: int, sharing: int, runs: int, shares: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of exactly `seeds` × `sharing` devices, which divide the number of runs and the `shares` of a batch."""
    devices = jax.devices() if devices is None else list(devices)
    if min(seeds, sharing) < 1:
        raise SettingError("mesh", f"{seeds} {sharing}", "must be at least 1 device along each axis")
    if seeds * sharing > len(devices):
        raise SettingError("mesh", f"{seeds} {sharing}", f"needs {seeds * sharing} devices; there are {len(devices)}")
    if runs % seeds:
        raise SettingError("seeds", runs, f"runs cannot be spread evenly over the mesh's {seeds} devices along seeds")
    if shares % sharing:
        reason = f"cannot share a batch's environments; the devices along env must divide {shares}"
        raise SettingError("mesh", f"{seeds} {sharing}", reason)
    _require_all_processes(runs, seeds * sharing, devices)
    return _mesh(seeds, sharing, devices)


def _mesh(seeds: int, sharing: int, devices: list[Any]) -> Mesh:
    return Mesh(np.array(devices[: seeds * sharing]).reshape(seeds, sharing), (SEED_AXIS, ENV_AXIS))


def _require_all_processes(runs: int, used: int, devices: list[Any]) -> None:
    count = len({device.process_index for device in devices})
    if count > 1 and used < len(devices):
        reason = f"runs would leave {len(devices) - used} of the {len(devices)} devices of {count} processes idle"
        raise SettingError("seeds", runs, f"{reason}; take a multiple of {len(devices)}, or fewer devices")


def _largest_divisor(number: int, at_most: int) -> int:
    return max(n for n in range(1, at_most + 1) if number % n == 0)
