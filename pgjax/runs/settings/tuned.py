"""The settings found for each environment, as plain data in tuned.toml."""

import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tuned.toml")


def tuned_environments() -> list[str]:
    """Environments with settings of their own, in the order of the table of scores."""
    return list(tomllib.loads(FILE.read_text(encoding="utf-8")))


def tuned(environment: str, algorithm: str = "") -> dict[str, Any]:
    """What of `Settings` was found for an environment; empty for one without, or where another method is wanted.

    >>> tuned("CartPole-v1")["environment"], tuned("CartPole-v1", "rloo"), tuned("NewWorld-v0")
    ('CartPole-v1', {}, {})
    """
    found = tomllib.loads(FILE.read_text(encoding="utf-8")).get(environment)
    if found is None or algorithm not in ("", found["algorithm"]):
        return {}
    return {"environment": environment} | found
