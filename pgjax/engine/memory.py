"""How much memory there is, asked before it is needed: what asks for more fails late, or is killed without a word."""

import contextlib
import os
import resource
from pathlib import Path

from pgjax.types import SettingError

LARGE = 10**6
"""Things of which there must be so many before it is asked how large one is."""

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def installed() -> int:
    """Bytes of memory that this process may have: the machine's, or less where it is limited."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
        limits.append(int(_LIMIT.read_text(encoding="utf-8")))
    return min(limit for limit in limits if limit >= 0)


def check_room(name: str, value: object, needed: int, what: str) -> None:
    """Refuse a number that asks for more memory than there is.

    Args:
      name: the setting.
      value: its value.
      needed: bytes, at least.
      what: they are for.

    Raises:
      SettingError: with both amounts.

    >>> check_room("num_envs", 8, 4000, "states of environments")
    >>> check_room("num_envs", 2**50, 2**60, "states of environments")
    Traceback (most recent call last):
    pgjax.types.SettingError: num_envs: 1125899906842624 needs 1.2e+09 GB for states of environments, of ...
    """
    there = installed()
    if needed > there:
        reason = f"needs {needed / 1e9:.2g} GB for {what}, of {there / 1e9:.2g} GB of memory; take less"
        raise SettingError(name, value, reason)
