"""How a script begins: CPU cores as devices, and compiled programs kept from one run to the next."""

import os
from pathlib import Path

import jax

from pgjax.lab.provenance import processor
from pgjax.runtime import use_cpu_devices


def start(devices: int | None = None) -> None:
    """Make CPU cores devices (`pgjax.use_cpu_devices`) and keep compiled programs; call before the first array is made.

    Programs go to the directory that JAX_COMPILATION_CACHE_DIR names, by default to pgjax in the user's cache; where
    that cannot be written, jax goes on without. JAX_ENABLE_COMPILATION_CACHE=0 keeps none.

    Args:
      devices: how many; default one per core.
    """
    use_cpu_devices(devices)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # By processor: what is compiled for one may not run on another that shares the home directory.
        jax.config.update("jax_compilation_cache_dir", str(home / "pgjax" / processor().replace(" ", "-")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
