"""Check available memory before a large allocation, which would otherwise fail late or end the process."""

import contextlib
import os
import resource
from pathlib import Path

from pgjax.types import SettingError

LARGE = 10**6
"""Counts below this are not checked, since finding the size of one item takes time."""

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # the limit of a container


def installed() -> int:
    """Bytes of memory available to this process: the machine's, or a lower limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    with contextlib.suppress(OSError, ValueError):  # no limit, or the text "max"
        limits.append(int(_LIMIT.read_text(encoding="utf-8")))
    return min(limit for limit in limits if limit >= 0)


def check_room(name: str, value: object, needed: int, what: str) -> None:
    """Raise a SettingError if `needed` bytes, for the purpose `what`, exceed the available memory."""
    available = installed()
    if needed > available:
        reason = f"needs {needed / 1e9:.2g} GB for {what}, of {available / 1e9:.2g} GB of memory; take less"
        raise SettingError(name, value, reason)
