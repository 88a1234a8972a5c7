"""Environments as pairs of pure functions, made by name. Each family of environments is one module."""

from pgjax.environments.gymnax import from_gymnax
from pgjax.environments.own import register
from pgjax.environments.parameters import with_parameters
from pgjax.environments.table import FAMILIES, available, make
from pgjax.environments.table import names as list

__all__ = [
    "FAMILIES",
    "available",
    "from_gymnax",
    "list",
    "make",
    "register",
    "with_parameters",
]
