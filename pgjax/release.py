"""The version of this code, and the name that it is installed by."""

VERSION = "0.2.0"
"""The version of this code; the package's metadata are made from it."""

NAME = "policy-gradients-jax"
"""The name on the package index; the import name is `pgjax`."""


def pip_install(extra: str) -> str:
    """The command that installs the packages of an extra: pip install "policy-gradients-jax[brax]"."""
    return f'pip install "{NAME}[{extra}]"'
