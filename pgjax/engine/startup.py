"""Start jax with a thread pool that is large enough, and with CPU cores as devices.

jaxlib 0.10 can hang at 0 % CPU. Its thread pool has one thread per core. A batch of QR, Cholesky or eigenvalue problems
occupies one of them while it waits for others; a few batches in parallel occupy all. pgjax initialises networks one
after the other for this reason (`pgjax.policies.initialisation`). For other code, `import pgjax` sets the environment
variable NPROC, read when the first array is made. jaxlib 0.11 does not need this.
"""

import os
import warnings

import jax
import jaxlib
from jax._src import xla_bridge  # jax has no public function for whether it has started

from pgjax import counters
from pgjax.types import SettingError

_OURS = "PGJAX_SET_NPROC"  # marks a size that pgjax set, in this process or a parent


def avoid_deadlock(devices: int = 1) -> None:
    """Give jaxlib 0.10 a thread pool of at least max(4, 2 × devices) threads, unless the user has set NPROC.

    Raises SettingError if the user's NPROC is too small for several devices.
    """
    if jaxlib.version.__version_info__ >= (0, 11):
        return
    needed = max(4, 2 * devices)
    given = os.environ.get("NPROC")
    if given is not None and given != os.environ.get(_OURS):
        if devices > 1 and int(given) < needed:
            raise SettingError("NPROC", int(given), f"is too small for {devices} devices; unset it, or set {needed}")
    elif cores() < needed:
        os.environ["NPROC"] = os.environ[_OURS] = str(needed)
        if given is None and xla_bridge.backends_are_initialized():
            reason = f"jaxlib 0.10 can hang with the {cores()} threads that jax runs with here"
            warnings.warn(f"{reason}; import pgjax before gymnax, or set NPROC={needed}", stacklevel=3)


def use_cpu_devices(count: int | None = None) -> None:
    """Make CPU cores appear as `count` devices, by default one per core. Call it before the first array is made.

    A GPU is not affected. If jax has already started, for instance by `import gymnax`, its devices stay. Another
    `count` is then an error, and the default prints a warning if there are fewer devices than cores.
    """
    wanted = cores() if count is None else counters.count("devices", count)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        there = len(jax.local_devices(backend="cpu"))
        if count is None and there < wanted:
            warnings.warn(f"devices: {there} for {wanted} cores; {_JAX_STARTED}", stacklevel=2)
        elif count is not None and there != wanted:
            raise SettingError("devices", count, f"is set too late: there are {there}; {_JAX_STARTED}") from error
        return
    avoid_deadlock(wanted)


_JAX_STARTED = "jax has already started (import gymnax starts it); call pgjax.use_cpu_devices() before that"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
