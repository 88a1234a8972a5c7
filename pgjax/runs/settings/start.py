"""Start of a script: CPU cores as devices, and a persistent compilation cache."""

import contextlib
import gc
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax

from pgjax.engine.startup import cores, use_cpu_devices
from pgjax.runs.record.provenance import processor
from pgjax.runs.settings.on_use import OnUse
from pgjax.runs.settings.programs import check_programs
from pgjax.types import SettingError


def start(devices: int | None = None) -> None:
    """Use CPU cores as devices and cache compiled programs on disk. Call it before the first array is made.

    The cache is in JAX_COMPILATION_CACHE_DIR, by default in the user's cache folder; JAX_ENABLE_COMPILATION_CACHE=0
    disables it.

    `devices` is their number; default as many as XLA_FLAGS asks for, or one per core.
    """
    sys.meta_path.insert(0, OnUse("seaborn"))
    gc.freeze()  # what is imported stays: collections while jax traces programs need not look at it
    asked = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    use_cpu_devices(devices or (int(asked[1]) if asked else None))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # without a home directory there is no cache
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            # One folder per processor: programs for one may not run on another that shares the home directory.
            jax.config.update("jax_compilation_cache_dir", str(home / "pgjax" / processor().replace(" ", "-")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    check_programs()


def chosen_devices(count: int) -> list[Any] | None:
    """The first `count` devices of every process; None, which means all, if `count` is 0.

    More CPU devices than cores exist only if XLA_FLAGS asks for them.
    """
    if count == 0:
        return None
    of_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    there = min(map(len, of_process.values()))
    if jax.default_backend() == "cpu" and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        there = min(there, cores())
    if count > there:
        raise SettingError("devices", count, f"is more than the {there} available")
    return [device for devices in of_process.values() for device in devices[:count]]
