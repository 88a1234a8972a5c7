"""Processes that train together agree on everything that decides the numbers, or none of them begins."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # no public name says where the processes' common table of texts is

from pgjax.runs.record.provenance import PACKAGE, PACKAGES, WHERE_USED, processor, version_of
from pgjax.runs.settings.config_file import OF_THE_PROCESS
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

_OF_ONE = ("dir", "path", "log", "dump", "cache", "trace", "profiler", "host", "address", "process", "devices")
"""Parts of names of jax's options that say where a process runs, or what it tells."""


def check_agreement(settings: Settings, timeout: int) -> None:
    """Compare with the other processes, together; call after they have joined and before the first array is made.

    Args:
      settings: this process's.
      timeout: seconds to wait for the others.

    Raises:
      SettingError: in all of them, where one differs from the first: naming the first thing that differs.
    """
    state = distributed.global_state  # jax.process_count() would start the devices
    table, me, count = state.client, state.process_id, state.num_processes or 1
    if table is None or count == 1:
        return
    mine = facts(settings)
    try:
        table.key_value_set(f"pgjax/facts/{me}", json.dumps(mine))
        if me == 0:
            found = None
            for other in range(1, count):
                theirs = json.loads(table.blocking_key_value_get(f"pgjax/facts/{other}", timeout * 1000))
                found = found or difference(mine, theirs, other)
            table.key_value_set("pgjax/difference", json.dumps(found))
        found = json.loads(table.blocking_key_value_get("pgjax/difference", timeout * 1000))
    except RuntimeError as error:
        reason = f"did not all say within {timeout} s what they run with; are they of one version?"
        raise SettingError("processes", count, reason) from error
    if found is not None:
        raise SettingError(*found)


def difference(first: Mapping[str, str], other: Mapping[str, str], number: int) -> tuple[str, str, str] | None:
    """The first thing in which a process differs from the first one, as a SettingError takes it; None for none.

    >>> difference({"seeds": "2", "jax": "0.10.1"}, {"seeds": "2", "jax": "0.10.2"}, 3)
    ('jax', '0.10.2', 'in process 3, but 0.10.1 in process 0: all must run with the same')
    """
    for name in {**first, **other}:
        here, there = first.get(name) or "nothing", other.get(name) or "nothing"
        if here != there:
            return name, there, f"in process {number}, but {here} in process 0: all must run with the same"
    return None


def facts(settings: Settings) -> dict[str, str]:
    """What decides the numbers of a run, by name: settings, versions, the source of pgjax, options, the machine.

    >>> facts(Settings(seeds=3))["seeds"], facts(Settings())["pgjax"]
    ('3', '0.2.0')
    """
    given = {name: value for name, value in asdict(settings).items() if name not in (*OF_THE_PROCESS, "imports")}
    asked = {name: "the method's" if value is None else str(value) for name, value in given.items()}
    asked |= {"resume": "a run" if settings.resume else "no run", "imports": _module(settings.imports)}
    installed = {name: _version(name) for name in (*PACKAGES, "numpy", *dict.fromkeys(WHERE_USED.values()))}
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "dump" not in flag]
    around = {
        "python": platform.python_version(),
        "source of pgjax": _source(PACKAGE),
        "XLA_FLAGS": " ".join(sorted(flags)),
        "PGJAX_ENGINE": os.environ.get("PGJAX_ENGINE", ""),
        "NPROC": os.environ.get("NPROC", str(os.cpu_count())),
        "processor": processor(),
    }
    return asked | installed | around | _options(jax.config.values)


def _options(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(x) for name, x in sorted(values.items()) if not any(part in name for part in _OF_ONE)}


def _module(name: str) -> str:
    """A module of somebody's own: its name, or a hash of its file, which may lie elsewhere."""
    return _hash([Path(name)]) if name.endswith(".py") and Path(name).is_file() else name


def _source(package: Path) -> str:
    return _hash(sorted(package.rglob("*.py")))


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode("utf-8", "surrogateescape") + file.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return "nothing"
