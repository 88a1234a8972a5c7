"""How a script begins: CPU cores as devices, and compiled programs kept from one run to the next."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import jax

from pgjax.engine.startup import cores, use_cpu_devices
from pgjax.runs.record.provenance import processor
from pgjax.runs.settings.programs import check_programs
from pgjax.types import SettingError


def start(devices: int | None = None) -> None:
    """Make CPU cores devices (`pgjax.use_cpu_devices`) and keep compiled programs; call before the first array is made.

    Programs go to the directory that JAX_COMPILATION_CACHE_DIR names, by default to pgjax in the user's cache; where
    that cannot be written, jax goes on without. JAX_ENABLE_COMPILATION_CACHE=0 keeps none. A program that is not as it
    was written is compiled anew (`programs`).

    Args:
      devices: how many; default one per core, or as many as XLA_FLAGS asks for.
    """
    asked = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    use_cpu_devices(devices or (int(asked[1]) if asked else None))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # there is no home directory: nothing is kept
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            # By processor: what is compiled for one may not run on another that shares the home directory.
            jax.config.update("jax_compilation_cache_dir", str(home / "pgjax" / processor().replace(" ", "-")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    check_programs()


def chosen_devices(count: int) -> list[Any] | None:
    """The first `count` devices of every process; None, for all of them, if it is 0.

    Raises:
      SettingError: if a process has fewer. CPU devices beyond the cores are there only where XLA_FLAGS asks for them.
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
        raise SettingError("devices", count, f"are more than the {there} there are")
    return [device for devices in of_process.values() for device in devices[:count]]
