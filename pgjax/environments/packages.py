"""The package behind a family: imported when an environment is named, and what it does not have, in one line."""

import contextlib
import difflib
import importlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

import jax

from pgjax.environments.base import check_environment
from pgjax.release import pip_install
from pgjax.types import Environment, SettingError


class NotInstalled(SettingError):
    """The package of a family is missing."""


@dataclass(frozen=True)
class Entry:
    """What a registry makes a name of: a class, with the arguments that stand in the registry beside it.

    Two are the same where class, entry and arguments are; the entry is held, so that its `id` stays its own.
    """

    kind: Callable
    number: int
    arguments: str
    spec: Any = field(compare=False, repr=False)

    @classmethod
    def of(cls, kind: Callable, spec: Any) -> Self:
        """Of an entry with arguments `kwargs`."""
        return cls(kind, id(spec), repr(spec.kwargs), spec)


def load(module: str, name: str, extra: str) -> ModuleType:
    """Import a package's module; what it prints or warns about on the way is left out.

    Args:
      module: such as "jumanji".
      name: of the environment or family, for errors.
      extra: of pgjax that installs the package.

    Raises:
      NotInstalled: naming the extra, if the package or something that it imports is missing.
      SettingError: if it is there and cannot be imported beside the installed jax.

    >>> load("no_such_package", "worlds/one", "worlds")
    Traceback (most recent call last):
    pgjax.environments.packages.NotInstalled: environment: 'worlds/one' needs no_such_package, and there is no \
module no_such_package: pip install "policy-gradients-jax[worlds]"
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        reason = f"needs {package}, and there is no module {error.name}: {pip_install(extra)}"
        raise NotInstalled("environment", name, reason) from error
    except Exception as error:  # an AttributeError, say: it asks for what jax no longer has
        reason = f"needs {module}, which does not import beside jax {jax.__version__}: {_one_line(error)}"
        raise SettingError("environment", name, reason) from error


def known_name(name: str, prefix: str, known: Iterable[str]) -> str:
    """The part of a name behind the family's prefix.

    Raises:
      SettingError: for an unknown name, with the closest known one.

    >>> known_name("worlds/Red-v0", "worlds/", ["Red-v0", "Blue-v0"])
    'Red-v0'
    >>> known_name("worlds/red", "worlds/", ["Red-v0", "Blue-v0"])
    Traceback (most recent call last):
    pgjax.types.SettingError: environment: 'worlds/red' is not known; the closest name is worlds/Red-v0
    """
    plain = name.removeprefix(prefix)
    by_lower = {other.lower(): other for other in known}
    if plain not in by_lower.values():
        close = difflib.get_close_matches(plain.lower(), by_lower, n=1, cutoff=0.0)
        raise SettingError("environment", name, f"is not known; the closest name is {prefix}{by_lower[close[0]]}")
    return plain


def cannot_be_made(name: str, settings: Mapping[str, Any], error: Exception) -> SettingError:
    """The error for settings that a constructor refuses.

    >>> print(cannot_be_made("worlds/Red-v0", {"size": 0}, ValueError("too small")))
    environment: 'worlds/Red-v0' cannot be made with size=0: too small
    """
    given = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    reason = f"cannot be made{' with ' if given else ''}{given}: {_one_line(error)}"
    return SettingError("environment", name, reason)


@contextlib.contextmanager
def making(name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Whatever the package raises for settings, in one line; `NotInstalled` and other one-line errors stay.

    >>> with making("worlds/Red-v0", {"size": 0}):
    ...     1 // 0
    Traceback (most recent call last):
        ...
    pgjax.types.SettingError: environment: 'worlds/Red-v0' cannot be made with size=0: integer division or modulo by ...
    """
    try:
        yield
    except SettingError:
        raise
    except Exception as error:  # its code is somebody else's: nobody knows what it raises
        raise cannot_be_made(name, settings, error) from error


def made(environment: Environment, settings: Mapping[str, Any]) -> Environment:
    """The environment, of which one reset and one step are traced where there are settings: some fail only there."""
    if settings:
        check_environment(environment)
    return environment


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
