"""Optional packages of environments: import on first use, and one-line errors."""

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
    """The package of an environment family is not installed."""


@dataclass(frozen=True)
class Entry:
    """A registry entry: a class and its arguments.

    Entries are equal if class, registry object and arguments are. The registry object is kept, so its `id` is not
    reused.
    """

    kind: Callable
    number: int
    arguments: str
    spec: Any = field(compare=False, repr=False)

    @classmethod
    def of(cls, kind: Callable, spec: Any) -> Self:
        """From a registry object with arguments `kwargs`."""
        return cls(kind, id(spec), repr(spec.kwargs), spec)


def load(module: str, name: str, extra: str) -> ModuleType:
    """Import a module of a package, without its output and warnings.

    `name` is the environment or family, for errors; `extra` is the extra of pgjax that installs the package. Raises
    NotInstalled if the package or one of its dependencies is missing, SettingError if it fails to import with the
    installed jax.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        reason = f"needs {package}, and there is no module {error.name}: {pip_install(extra)}"
        raise NotInstalled("environment", name, reason) from error
    except Exception as error:  # for instance an AttributeError, for a function that was removed from jax
        reason = f"needs {module}, which fails to import with jax {jax.__version__}: {_one_line(error)}"
        raise SettingError("environment", name, reason) from error


def known_name(name: str, prefix: str, known: Iterable[str]) -> str:
    """The part of a name after the family's prefix. Raises for an unknown name, with the closest known one."""
    plain = name.removeprefix(prefix)
    by_lower = {other.lower(): other for other in known}
    if plain not in by_lower.values():
        close = difflib.get_close_matches(plain.lower(), by_lower, n=1, cutoff=0.0)
        raise SettingError("environment", name, f"is not known; the closest name is {prefix}{by_lower[close[0]]}")
    return plain


def cannot_be_made(name: str, settings: Mapping[str, Any], error: Exception) -> SettingError:
    """The error for settings that a constructor rejects."""
    given = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    reason = f"cannot be made{' with ' if given else ''}{given}: {_one_line(error)}"
    return SettingError("environment", name, reason)


@contextlib.contextmanager
def making(name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn any exception of a package into a one-line SettingError; SettingErrors pass unchanged."""
    try:
        yield
    except SettingError:
        raise
    except Exception as error:  # a package may raise anything
        raise cannot_be_made(name, settings, error) from error


def made(environment: Environment, settings: Mapping[str, Any]) -> Environment:
    """The environment. If it has settings, one reset and one step are traced, since some settings fail only there."""
    if settings:
        check_environment(environment)
    return environment


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
