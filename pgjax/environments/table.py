"""The table of environment families, which `make` and the command line use."""

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
"""The module of each family by the prefix of its names, `PREFIX`; gymnax's prefix is empty.

A module has `EXTRA`, the extra that installs its package; `available()`, its names; `factory(name)`, the constructor of
a name, part of the cache key of `make`, which raises for an unknown name; and `make(name, **settings)`.
"""


_PREFIXES = [prefix for prefix in FAMILIES if prefix]


def available(family: str = "") -> list[str]:
    """The names that `make` knows of one family, given by its prefix in FAMILIES, with those that users registered."""
    if family not in FAMILIES:
        raise SettingError("family", family, f"is not a known prefix; known: {', '.join(map(repr, FAMILIES))}")
    return FAMILIES[family].available()


def names() -> list[str]:
    """The names that `make` knows, of all installed families: `pgjax.environments.list()`."""
    return [name for _, known in by_family() if not isinstance(known, SettingError) for name in known]


def by_family() -> list[tuple[str, list[str] | SettingError]]:
    """Prefix and names of each family; instead of names the error if the family cannot be used."""

    def known(family: str) -> list[str] | SettingError:
        try:
            return available(family)
        except SettingError as error:
            return error

    return [(family, known(family)) for family in FAMILIES]


def make(name: str, *, randomise: Ranges | None = None, **settings: Any) -> Environment:
    """Make an environment by name: a gymnax name, or another family's after its prefix, such as "brax/".

    `settings` go to its constructor; gymnax parameters are settings too. A name can contain settings as text:
    "FrozenLake-misc:map_name=8x8", "CartPole-v1:length=0.7". Equal arguments return the same object, so compiled
    programs are reused. Registering a name again is noticed; changing a class in place is not.
    `randomise` gives parameters that each episode draws uniformly, name -> (low, high). `Environment.parameters` lists
    those that can vary (`pgjax.environments.randomisation`).

    >>> make("DeepSea-bsuite:size=10").observation.shape
    (10, 10)
    """
    if not isinstance(name, str):
        raise SettingError("environment", name, "must be a name, such as CartPole-v1")
    plain, settings = _settings(name, settings)
    if randomise is not None and not isinstance(randomise, Mapping):
        raise SettingError("randomise", randomise, "must be a mapping, name -> (low, high)")
    if randomise:
        for given, value in settings.items():
            if given in randomise:
                raise SettingError(
                    given, value, "has no effect, because randomise draws it for each episode; leave it out"
                )
        fixed = _fixed(name, plain, settings)
        try:
            return _randomised(fixed, tuple((one, tuple(low_high)) for one, low_high in sorted(randomise.items())))
        except TypeError:  # not a range, or values that cannot be hashed
            return randomised(fixed, randomise)
    return _fixed(name, plain, settings)


def _fixed(name: str, plain: str, settings: dict[str, Any]) -> Environment:
    """An environment without drawn parameters. Its name is the one asked for, settings included."""
    family = FAMILIES[_prefix(plain)]
    factory = family.factory(plain)
    try:
        hash(tuple(settings.values()))
    except TypeError:  # a setting that cannot be hashed, such as a list
        return family.make(plain, **settings)._replace(name=name)
    return _make(name, family, factory, jnp.result_type(float), **settings)


@functools.lru_cache(maxsize=None, typed=True)
def _make(name: str, family: ModuleType, factory: Hashable, numbers: Any, /, **settings: Any) -> Environment:
    """Cached per factory and default float type."""
    return family.make(name.split(":")[0], **settings)._replace(name=name)


@functools.lru_cache(maxsize=None, typed=True)
def _randomised(fixed: Environment, ranges: tuple[tuple[str, tuple[float, ...]], ...]) -> Environment:
    return randomised(fixed, dict(ranges))


def _prefix(name: str) -> str:
    """The prefix of a name's family. For an unknown prefix, raise with the closest name of the closest family."""
    prefix = max((prefix for prefix in FAMILIES if name.startswith(prefix)), key=len)
    if name == prefix:
        example = f"{prefix}... needs a name" if prefix else f"such as CartPole-v1; prefixes: {', '.join(_PREFIXES)}"
        raise SettingError("environment", name, f"is not a name; {example}")
    if prefix or "/" not in name or name in gymnax.available():
        return prefix
    given, _, rest = name.partition("/")
    close = difflib.get_close_matches(f"{given}/".lower(), _PREFIXES, n=1)
    if not close:
        raise SettingError("environment", name, f"has an unknown prefix; prefixes: {', '.join(_PREFIXES)}")
    by_lower = {other.lower(): other for other in available(close[0])}
    nearest = difflib.get_close_matches((close[0] + rest).lower(), by_lower, n=1, cutoff=0.0)
    raise SettingError("environment", name, f"is not known; the closest name is {by_lower[nearest[0]]}")


def _settings(name: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name without its settings, and these settings together with the given ones, each once."""
    plain, *texts = name.split(":")
    settings: dict[str, Any] = {}
    for setting, value in [*map(_setting, texts), *given.items()]:
        if setting in settings:
            raise SettingError(setting, value, "is given a second time")
        if setting == "name":  # an argument of `make`
            raise SettingError("environment", name, "has no setting name")
        settings[setting] = value
    return plain, settings


def _setting(text: str) -> tuple[str, Any]:
    """Parse name=value, with the value a Python literal or text."""
    name, given, value = text.partition("=")
    if not (name and given):
        raise SettingError("environment", text, "must be a setting name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
