"""Start jax with CPU cores as devices, and with a thread pool of the right size.

jaxlib 0.10 can hang at 0 % CPU. Its thread pool has one thread per core. A batch of QR, Cholesky or eigenvalue problems
occupies one of them while it waits for others; a few batches in parallel occupy all. pgjax initialises networks one
after the other for this reason (`pgjax.policies.initialisation`). For other code, `import pgjax` sets the environment
variable NPROC, read when the first array is made.

jaxlib 0.11 does not hang. It divides one device's small operations between the threads of the pool, and waking a thread
takes longer than such an operation. If every core is a device, NPROC=1 lets each compute alone.
"""

import os
import warnings

import jax
import jaxlib
from jax._src import xla_bridge  # jax has no public function for whether it has started

from pgjax import counters
from pgjax.types import SettingError

_OURS = "PGJAX_SET_NPROC"  # marks a size that pgjax set, in this process or a parent


def set_threads(devices: int = 1) -> None:
    """Set the size of jax's thread pool, NPROC, unless the user has: at least max(4, 2 × devices) for jaxlib 0.10; 1
    for later versions if there is a device for each core.

    Raises SettingError if the user's NPROC is too small for several devices.
    """
    given = os.environ.get("NPROC")
    if given is not None and given == os.environ.get(_OURS):
        given = None
    if jaxlib.version.__version_info__ >= (0, 11):
        if given is None:
            _set(1 if devices == cores() else None)
        return
    needed = max(4, 2 * devices)
    if given is not None:
        if devices > 1 and int(given) < needed:
            raise SettingError("NPROC", int(given), f"is too small for {devices} devices; unset it, or set {needed}")
    elif cores() < needed:
        was_set = "NPROC" in os.environ
        _set(needed)
        if not was_set and xla_bridge.backends_are_initialized():
            reason = f"jaxlib 0.10 can hang with the {cores()} threads that jax runs with here"
            warnings.warn(f"{reason}; import pgjax before gymnax, or set NPROC={needed}", stacklevel=3)


def _set(threads: int | None) -> None:
    for name in ("NPROC", _OURS):
        if threads is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(threads)


def use_cpu_devices(count: int | None = None) -> None:
    """Make CPU cores appear as `count` devices, by default one per core. Call it before the first array is made.

    With one device per core and jaxlib 0.11, each computes on one core only (`set_threads`). A GPU is not affected.

    If jax has already started, for instance by `import gymnax`, its devices stay. Another `count` is then an error, and
    the default prints a warning if there are fewer devices than cores.
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
    set_threads(wanted)


_JAX_STARTED = "jax has already started (import gymnax starts it); call pgjax.use_cpu_devices() before that"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
