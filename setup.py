"""Puts the scripts of experiments/ into the wheel as pgjax_experiments, where the command `pgjax` finds them.

Everything else is in pyproject.toml, which cannot name packages that are found and one from another folder together.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pgjax", "pgjax.*"]), "pgjax_experiments", "pgjax_experiments.parts"],
    package_dir={"pgjax_experiments": "experiments"},
)
