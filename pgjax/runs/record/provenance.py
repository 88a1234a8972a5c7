"""What the bits of a run depend on, besides its settings."""

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
WHERE_USED = {  # optional: a module, once imported, and the package it comes from; numbers of physics depend on several
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
    """The installed versions of everything that computes.

    >>> list(versions())[:6]
    ['pgjax', 'jax', 'jaxlib', 'flax', 'optax', 'gymnax']
    """
    used = (package for module, package in WHERE_USED.items() if module in sys.modules)
    return {name: version_of(name) for name in (*PACKAGES, *used)}


def version_of(package: str) -> str:
    """The installed version of a package; of pgjax, whose package has another name, that of the code in use.

    Raises:
      PackageNotFoundError: if it is not installed.
    """
    return VERSION if package == "pgjax" else version(package)


PACKAGE = Path(__file__).resolve().parents[2]


def commit(package: Path = PACKAGE) -> str:
    """The commit of the clone that pgjax is imported from, `+` behind it where its files have changed; else empty."""

    def git(*words: str) -> str:
        # Without --no-optional-locks `status` locks the repository, for good if it is ended for taking too long.
        command = ["git", "--no-optional-locks", "-C", str(package), *words]
        found = subprocess.run(command, capture_output=True, check=True, timeout=10)
        return os.fsdecode(found.stdout).strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return ""  # installed, in an environment inside somebody's own repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(package)) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def provenance(mesh: Mesh) -> dict[str, str]:
    """Versions, thread pool, devices, processes and processor: with these and the settings equal, so are the bits.

    Args:
      mesh: the devices that the runs are spread over.
    """
    return versions() | {
        "threads": os.environ.get("NPROC", str(os.cpu_count())),
        "devices": " × ".join([*(f"{n} {axis}" for axis, n in mesh.shape.items()), mesh.devices.flat[0].device_kind]),
        "processes": str(jax.process_count()),
        "processor": processor(),
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What has changed, in words; empty when nothing has.

    >>> differences({"jax": "0.10.1", "threads": "4"}, {"jax": "0.10.2", "threads": "4"})
    'jax 0.10.1, now 0.10.2'
    """
    names = [name for name in {**now, **then} if then.get(name, now.get(name)) != now.get(name)]
    return "; ".join(f"{name} {then.get(name)}, now {now.get(name)}" for name in names)


@cache
def processor() -> str:
    """The processor's model and a hash of its features: compiled code uses the instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)  # all cores are alike
    known = {name.strip(): value.strip() for name, value in facts.items()}
    features = known.get("flags", known.get("Features", ""))
    return f"{known.get('model name', platform.machine())} {hashlib.sha256(features.encode()).hexdigest()[:8]}"
