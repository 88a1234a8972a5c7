"""Environments as pairs of pure functions: one file for each family, behind `make`."""

from pgjax.environments.gymnax import available, from_gymnax, make
