"""How jax is started: a thread pool that cannot deadlock, and CPU cores as devices.

jaxlib 0.10 can stop for ever at 0 % CPU: its thread pool has one thread per core, and on a machine of few cores (or
with a pool shared by several virtual devices) every thread can end up waiting for work that only another could do.
A pool of at least four threads, and twice the number of devices, has hung only twice, in hour-long runs on two busy
cores; `NPROC=16` has not. The size is read from the
environment variable NPROC when the first array is made, so `import pgjax` sets it, unless it is already set.
jaxlib 0.11 does not need it.
"""

import os
import warnings

import jax
import jaxlib
from jax._src import xla_bridge  # no public name says whether jax has started

from pgjax import counters
from pgjax.types import SettingError

_OURS = "PGJAX_SET_NPROC"  # marks a size that was set here, in this process or a parent


def avoid_deadlock(devices: int = 1) -> None:
    """Give jaxlib 0.10 a thread pool of at least max(4, 2 × devices); a size the user has set stays.

    Raises:
      SettingError: if the user's own NPROC would hang with this many devices.
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
            warnings.warn(f"{reason}: import pgjax before gymnax, or set NPROC={needed}", stacklevel=3)


def use_cpu_devices(count: int | None = None) -> None:
    """Make CPU cores appear as devices, so that sweeps spread over them. Call before the first array is made.

    Args:
      count: how many; default one per core. On a machine with a GPU this changes nothing but the CPU's own devices.

    Where jax has already started, as `import gymnax` makes it do, the devices that it has started with stay: a warning
    says so where there are fewer than cores.

    Raises:
      SettingError: for a count below one, or one that jax has already started without.
    """
    wanted = cores() if count is None else counters.count("devices", count)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        there = len(jax.local_devices(backend="cpu"))
        if count is None and there < wanted:
            warnings.warn(f"devices: {there} for {wanted} cores; {_TOO_LATE}", stacklevel=2)
        elif count is not None and there != wanted:
            raise SettingError("devices", count, f"comes too late: there are {there}; {_TOO_LATE}") from error
        return
    avoid_deadlock(wanted)


_TOO_LATE = "jax has already started, as import gymnax does: for more, call pgjax.use_cpu_devices() before that"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
