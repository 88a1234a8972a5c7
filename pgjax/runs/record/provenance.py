"""Versions, devices and processor on which the exact bits of a run depend, besides its settings."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax
from jax.sharding import Mesh

from pgjax.release import VERSION

PACKAGES = ("pgjax", "jax", "jaxlib", "flax", "optax", "gymnax")
OPTIONAL_PACKAGES = {  # imported module -> package that provides it
    "brax": "brax",
    "mujoco": "mujoco",
    "mujoco.mjx": "mujoco-mjx",
    "mujoco_playground": "playground",
    "jumanji": "jumanji",
    "craftax": "craftax",
    "navix": "navix",
    "xminigrid": "xminigrid",
    "pgx": "pgx",
}


def versions() -> dict[str, str]:
    """Installed versions of the packages that the results depend on; optional ones only if imported."""
    used = (package for module, package in OPTIONAL_PACKAGES.items() if module in sys.modules)
    return {name: version_of(name) for name in (*PACKAGES, *used)}


def version_of(package: str) -> str:
    """The installed version of a package; for pgjax, whose distribution has another name, that of the imported code."""
    return VERSION if package == "pgjax" else version(package)


PACKAGE = Path(__file__).resolve().parents[2]


def commit(package: Path = PACKAGE) -> str:
    """The git commit of the clone that contains pgjax, with "+" if files have changed; empty without a clone."""

    def git(*words: str) -> str:
        # Without --no-optional-locks, a `status` that is killed at the timeout would leave the repository locked.
        command = ["git", "--no-optional-locks", "-C", str(package), *words]
        found = subprocess.run(command, capture_output=True, check=True, timeout=10)
        return os.fsdecode(found.stdout).strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return ""  # installed in a virtual environment inside another repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(package)) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def provenance(mesh: Mesh) -> dict[str, str]:
    """Versions, threads, mesh, processes and processor; if these and the settings are equal, results are identical."""
    return versions() | {
        "threads": os.environ.get("NPROC", str(os.cpu_count())),
        "devices": " × ".join([*(f"{n} {axis}" for axis, n in mesh.shape.items()), mesh.devices.flat[0].device_kind]),
        "processes": str(jax.process_count()),
        "processor": processor(),
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What has changed between two provenances as text; empty if nothing has.

    >>> differences({"jax": "0.10.1", "threads": "4"}, {"jax": "0.10.2", "threads": "4"})
    'jax 0.10.1, now 0.10.2'
    """
    names = [name for name in {**now, **then} if then.get(name, now.get(name)) != now.get(name)]
    return "; ".join(f"{name} {then.get(name)}, now {now.get(name)}" for name in names)


@cache
def processor() -> str:
    """Model of the processor and a hash of its features, which determine the instructions of compiled programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)  # of the last core; cores are assumed equal
    known = {name.strip(): value.strip() for name, value in facts.items()}
    features = known.get("flags", known.get("Features", ""))
    return f"{known.get('model name', platform.machine())} {hashlib.sha256(features.encode()).hexdigest()[:8]}"
