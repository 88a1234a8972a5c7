"""A check that all processes of a distributed run use the same settings, versions, source and options."""

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
from jax._src import distributed  # the key-value store of the processes has no public name

from pgjax.runs.record.provenance import OPTIONAL_PACKAGES, PACKAGE, PACKAGES, processor, version_of
from pgjax.runs.settings.config_file import PROCESS_SETTINGS
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

_LOCAL_OPTIONS = ("dir", "path", "log", "dump", "cache", "trace", "profiler", "host", "address", "process", "devices")
"""Substrings of the names of JAX options that may differ between processes: paths, logs, addresses, devices."""


def check_agreement(settings: Settings, timeout: int) -> None:
    """Compare this process with process 0, after joining and before the first array; all raise the SettingError."""
    state = distributed.global_state  # jax.process_count() would start the devices
    store, rank, count = state.client, state.process_id, state.num_processes or 1
    if store is None or count == 1:
        return
    local = facts(settings)
    try:
        store.key_value_set(f"pgjax/facts/{rank}", json.dumps(local))
        if rank == 0:
            found = None
            for other in range(1, count):
                remote = json.loads(store.blocking_key_value_get(f"pgjax/facts/{other}", timeout * 1000))
                found = found or difference(local, remote, other)
            store.key_value_set("pgjax/difference", json.dumps(found))
        found = json.loads(store.blocking_key_value_get("pgjax/difference", timeout * 1000))
    except RuntimeError as error:
        reason = f"did not all report their settings within {timeout} s; check that all use the same version of pgjax"
        raise SettingError("processes", count, reason) from error
    if found is not None:
        raise SettingError(*found)


def difference(first: Mapping[str, str], other: Mapping[str, str], number: int) -> tuple[str, str, str] | None:
    """The first difference between a process and process 0, as arguments of a SettingError; None if there is none."""
    for name in {**first, **other}:
        here, there = first.get(name) or "nothing", other.get(name) or "nothing"  # an empty value or a missing one
        if here != there:
            return name, there, f"in process {number} differs from {here} in process 0; all must be the same"
    return None


def facts(settings: Settings) -> dict[str, str]:
    """Everything that determines the results of a run, by name: settings, versions, source, options and processor."""
    shared = {name: value for name, value in asdict(settings).items() if name not in (*PROCESS_SETTINGS, "imports")}
    given = {name: "the method's" if value is None else str(value) for name, value in shared.items()}
    given |= {"resume": "a run" if settings.resume else "no run", "imports": _module_id(settings.imports)}
    installed = {name: _version(name) for name in (*PACKAGES, "numpy", *dict.fromkeys(OPTIONAL_PACKAGES.values()))}
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "dump" not in flag]
    platform_facts = {
        "python": platform.python_version(),
        "source of pgjax": _source(PACKAGE),
        "XLA_FLAGS": " ".join(sorted(flags)),
        "PGJAX_ENGINE": os.environ.get("PGJAX_ENGINE", ""),
        "NPROC": os.environ.get("NPROC", str(os.cpu_count())),
        "processor": processor(),
    }
    return given | installed | platform_facts | _options(jax.config.values)


def _options(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(x) for name, x in sorted(values.items()) if not any(part in name for part in _LOCAL_OPTIONS)}


def _module_id(name: str) -> str:
    """Return a module's name, or a hash of its file, whose path may differ between processes."""
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
