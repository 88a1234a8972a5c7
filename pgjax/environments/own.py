"""User-defined environments by name: pairs of functions (`pgjax.Environment`) that a module registers.

Environments with gymnax's interface are registered with `gymnax.register` instead and need no prefix.
"""

import difflib
from collections.abc import Callable
from typing import Any

from pgjax.environments.base import check_environment
from pgjax.types import Environment, SettingError

PREFIX = "own/"
"""Prefix of the names of these environments."""

EXTRA = ""
"""No extra of pgjax installs them."""

_FACTORIES: dict[str, Callable[..., Environment]] = {}


def register(name: str, factory: Callable[..., Environment]) -> None:
    """Register an environment as "own/NAME", for `make` and, after `--import`, for the command line.

    `factory` takes the settings of a name such as "own/NAME:size=4" as keyword arguments and returns an Environment. A
    name that is already registered gets the new factory.

    >>> from pgjax import environments
    >>> environments.register("Short-v0", lambda limit=50: environments.make("CartPole-v1", max_steps_in_episode=limit))
    >>> environments.make("own/Short-v0:limit=20").horizon
    20
    """
    name = name.removeprefix(PREFIX) if isinstance(name, str) else name
    if not isinstance(name, str) or not name or ":" in name or name != name.strip():
        raise SettingError("name", name, "must be a text without ':' and without spaces around it")
    if not callable(factory):
        raise SettingError("factory", factory, f"of {PREFIX}{name} must be a function that returns an Environment")
    _FACTORIES[name] = factory


def available() -> list[str]:
    """The registered names."""
    return [PREFIX + name for name in _FACTORIES]


def factory(name: str) -> Callable[..., Environment]:
    """The factory of a name. Raises a SettingError for an unknown name, with the closest known one."""
    plain = name.removeprefix(PREFIX)
    if plain not in _FACTORIES:
        close = difflib.get_close_matches(plain, _FACTORIES, n=1, cutoff=0.0)
        nothing = "nothing is registered by register(name, factory)"
        hint = f"the closest name is {PREFIX}{close[0]}" if close else nothing
        raise SettingError("environment", name, f"is not known; {hint}")
    return _FACTORIES[plain]


def make(name: str, **settings: Any) -> Environment:
    """Call the factory of a name and check the environment."""
    made = factory(name)
    try:
        environment = made(**settings)
    except SettingError:
        raise
    except Exception as error:  # a user's function may raise anything
        given = ", ".join(f"{setting}={value!r}" for setting, value in settings.items()) or "no settings"
        cause = " ".join(str(error).split()) or type(error).__name__
        raise SettingError("environment", name, f"cannot be made with {given}: {cause}") from error
    if not isinstance(environment, Environment):
        raise SettingError("environment", name, f"is a {type(environment).__name__}; needs a pgjax.Environment")
    check_environment(environment)
    return environment
