"""Tuned settings of environments, from tuned.toml."""

import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tuned.toml")


def tuned_environments() -> list[str]:
    """Names of the environments with tuned settings, in the order of the table of scores."""
    return list(tomllib.loads(FILE.read_text(encoding="utf-8")))


def tuned(environment: str, algorithm: str = "") -> dict[str, Any]:
    """Tuned settings of an environment; empty if there are none, or none for the given algorithm."""
    found = tomllib.loads(FILE.read_text(encoding="utf-8")).get(environment)
    if found is None or algorithm not in ("", found["algorithm"]):
        return {}
    return {"environment": environment} | found
