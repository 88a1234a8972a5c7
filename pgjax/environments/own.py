"""Environments of one's own by a name: pairs of functions (`pgjax.Environment`) that a module registers.

What has gymnax's interface is registered with `gymnax.register` instead, and needs no prefix.
"""

import difflib
from collections.abc import Callable
from typing import Any

from pgjax.environments.base import check_environment
from pgjax.types import Environment, SettingError

PREFIX = "own/"
"""What the names of these environments begin with."""

EXTRA = ""
"""No extra of pgjax installs them."""

_FACTORIES: dict[str, Callable[..., Environment]] = {}


def register(name: str, factory: Callable[..., Environment]) -> None:
    """Let "own/NAME" stand for an environment of one's own, in `make` and after `--import` on the command line.

    Args:
      name: without the prefix; a name that is there already gets the new factory.
      factory: (**settings) -> Environment; the settings are those that a name carries, "own/NAME:size=4".

    Raises:
      SettingError: for a name that cannot be asked for, or no function.

    >>> from pgjax import environments
    >>> environments.register("Short-v0", lambda limit=50: environments.make("CartPole-v1", max_steps_in_episode=limit))
    >>> environments.make("own/Short-v0:limit=20").horizon
    20
    """
    name = name.removeprefix(PREFIX) if isinstance(name, str) else name
    if not isinstance(name, str) or not name or ":" in name or name != name.strip():
        raise SettingError("name", name, "must be a text without ':' and without spaces around it")
    if not callable(factory):
        raise SettingError("factory", factory, f"of {PREFIX}{name} must be a function that gives an Environment")
    _FACTORIES[name] = factory


def available() -> list[str]:
    """The names that are registered."""
    return [PREFIX + name for name in _FACTORIES]


def factory(name: str) -> Callable[..., Environment]:
    """What is registered by a name.

    Raises:
      SettingError: for an unknown name, with the closest known one.
    """
    plain = name.removeprefix(PREFIX)
    if plain not in _FACTORIES:
        close = difflib.get_close_matches(plain, _FACTORIES, n=1, cutoff=0.0)
        there = (
            f"the closest name is {PREFIX}{close[0]}" if close else "nothing is registered by register(name, factory)"
        )
        raise SettingError("environment", name, f"is not known; {there}")
    return _FACTORIES[plain]


def make(name: str, **settings: Any) -> Environment:
    """Call what is registered, and check what it gives.

    Raises:
      SettingError: for an unknown name, settings that it does not take, and what is no environment.
    """
    made = factory(name)
    try:
        environment = made(**settings)
    except SettingError:
        raise
    except Exception as error:  # whatever a function of somebody's own raises
        given = ", ".join(f"{setting}={value!r}" for setting, value in settings.items()) or "no settings"
        found = " ".join(str(error).split()) or type(error).__name__
        raise SettingError("environment", name, f"cannot be made with {given}: {found}") from error
    if not isinstance(environment, Environment):
        raise SettingError("environment", name, f"is a {type(environment).__name__}; needs a pgjax.Environment")
    check_environment(environment)
    return environment
