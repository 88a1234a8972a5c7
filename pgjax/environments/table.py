"""The table of environment families: `make` and the command line know what stands here."""

import ast
import difflib
import functools
from collections.abc import Hashable, Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from pgjax.environments import brax, craftax, gymnax, jumanji, navix, own, pgx, playground, xland
from pgjax.environments.randomisation import Ranges, randomised
from pgjax.types import Environment, SettingError

FAMILIES: dict[str, ModuleType] = {
    module.PREFIX: module for module in (gymnax, brax, playground, jumanji, craftax, navix, xland, pgx, own)
}
"""The module of each family by what its names begin with, `PREFIX`; gymnax's begin with nothing.

A module has `EXTRA`, what installs its package; `available()`, its names; `factory(name)`, what it makes a name of
(another factory means another environment), which refuses an unknown name with the closest known one; and
`make(name, **settings)`.
"""


_PREFIXES = [prefix for prefix in FAMILIES if prefix]


def available(family: str = "") -> list[str]:
    """The names that `make` knows of one family, by its prefix in FAMILIES; those that users registered included.

    Raises:
      SettingError: for a family that is not installed, or a prefix that is none.

    >>> "CartPole-v1" in available()
    True
    """
    if family not in FAMILIES:
        raise SettingError("family", family, f"is no prefix of names; known: {', '.join(map(repr, FAMILIES))}")
    return FAMILIES[family].available()


def names() -> list[str]:
    """The names that `make` knows, of all families that are installed: `pgjax.environments.list()`.

    >>> "CartPole-v1" in names()
    True
    """
    return [name for _, known in by_family() if not isinstance(known, SettingError) for name in known]


def by_family() -> list[tuple[str, list[str] | SettingError]]:
    """The prefix and the names of each family in turn; in place of names why a family cannot be used."""

    def known(family: str) -> list[str] | SettingError:
        try:
            return available(family)
        except SettingError as error:
            return error

    return [(family, known(family)) for family in FAMILIES]


def make(name: str, *, randomise: Ranges | None = None, **settings: Any) -> Environment:
    """Make an environment by its name: gymnax's, or another family's behind its prefix, such as "brax/".

    `settings` go to its constructor; gymnax's parameters count as settings too. A name can carry settings itself, as
    text: "FrozenLake-misc:map_name=8x8", "CartPole-v1:length=0.7". The same arguments give the same object, so that
    programs compiled for it are found again; a name registered anew gives what it now stands for, but a class that is
    patched in place is not seen.

    Args:
      name: of the table.
      randomise: parameters that each episode draws anew, name -> (low, high), uniformly
        (`pgjax.environments.randomisation`); `Environment.parameters` lists which can.
      **settings: by name.

    Raises:
      SettingError: for an unknown name, with the closest known one; for a setting that it does not have, or a value of
        another type, or one that is given twice; for a family that is not installed.

    >>> make("CartPole-v1").horizon
    500
    >>> make("DeepSea-bsuite:size=10").observation.shape
    (10, 10)
    >>> make("CartPole-v1", length=0.7, randomise={"gravity": (8.0, 11.0)}).parameters["length"]
    0.7
    """
    plain, settings = _settings(name, settings)
    if randomise is not None and not isinstance(randomise, Mapping):
        raise SettingError("randomise", randomise, "must be a mapping, name -> (low, high)")
    if randomise:
        for given, value in settings.items():
            if given in randomise:
                raise SettingError(given, value, "does nothing: each episode draws it anew; leave it out")
        fixed = _fixed(name, plain, settings)
        try:
            return _randomised(fixed, tuple((one, tuple(of)) for one, of in sorted(randomise.items())))
        except TypeError:  # no range, or numbers that cannot be looked up
            return randomised(fixed, randomise)
    return _fixed(name, plain, settings)


def _fixed(name: str, plain: str, settings: dict[str, Any]) -> Environment:
    """An environment that draws no parameters; it keeps the name it was asked for by, settings included."""
    family = FAMILIES[_prefix(plain)]
    factory = family.factory(plain)
    try:
        hash(tuple(settings.values()))
    except TypeError:  # a list, say: nothing to find it by
        return family.make(plain, **settings)._replace(name=name)
    return _make(name, family, factory, jnp.result_type(float), **settings)


@functools.lru_cache(maxsize=None, typed=True)
def _make(name: str, family: ModuleType, factory: Hashable, numbers: Any, /, **settings: Any) -> Environment:
    """Make it anew for another factory, and under another default type of numbers."""
    return family.make(name.split(":")[0], **settings)._replace(name=name)


@functools.lru_cache(maxsize=None, typed=True)
def _randomised(fixed: Environment, ranges: tuple[tuple[str, tuple[float, ...]], ...]) -> Environment:
    return randomised(fixed, dict(ranges))


def _prefix(name: str) -> str:
    """The prefix of a name's family; where it is that of none, the closest one is asked for the closest name."""
    prefix = max((prefix for prefix in FAMILIES if name.startswith(prefix)), key=len)
    if name == prefix:
        such = f"{prefix}... needs a name" if prefix else f"such as CartPole-v1; prefixes: {', '.join(_PREFIXES)}"
        raise SettingError("environment", name, f"is no name; {such}")
    if prefix or "/" not in name or name in gymnax.available():
        return prefix
    given, _, rest = name.partition("/")
    close = difflib.get_close_matches(f"{given}/".lower(), _PREFIXES, n=1)
    if not close:
        raise SettingError("environment", name, f"is of no family; prefixes: {', '.join(_PREFIXES)}")
    by_lower = {other.lower(): other for other in available(close[0])}
    nearest = difflib.get_close_matches((close[0] + rest).lower(), by_lower, n=1, cutoff=0.0)
    raise SettingError("environment", name, f"is not known; the closest name is {by_lower[nearest[0]]}")


def _settings(name: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name without the settings that it carries, and these beside those given; each one once."""
    plain, *written = name.split(":")
    settings: dict[str, Any] = {}
    for setting, value in [*map(_setting, written), *given.items()]:
        if setting in settings:
            raise SettingError(setting, value, "is given a second time")
        if setting == "name":  # what `make` calls the environment itself
            raise SettingError("environment", name, "has no setting name")
        settings[setting] = value
    return plain, settings


def _setting(text: str) -> tuple[str, Any]:
    """name=value, the value a Python number or bool, or else text."""
    name, given, value = text.partition("=")
    if not (name and given):
        raise SettingError("environment", text, "must be a setting name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
