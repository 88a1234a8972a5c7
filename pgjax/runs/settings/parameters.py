"""Command-line flags made from the signatures and docstrings of the table of methods, and the fields of `Config`."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from jax.typing import ArrayLike

from pgjax import methods
from pgjax.config import Config, Recipe

METHOD_FIELDS = ("rollout", "critic")
"""Fields of `Config` that the method sets and no flag changes."""

MOST_NAMED = 6
"""Largest number of methods that a help text lists by name."""


def of_methods(table: Mapping[str, Callable[..., Recipe]]) -> list[tuple[str, Any, Any]]:
    """A dataclass field (name, type, default) for each parameter of the methods, the most common ones first.

    A number has the type `float | None`; None means the default of the method. Help is from the first docstring with an
    entry.
    """
    having: dict[str, dict[str, inspect.Parameter]] = {}
    texts: dict[str, str] = {}
    for method, recipe in table.items():
        documented = documentation(recipe.func if isinstance(recipe, partial) else recipe, "Args")
        for name, parameter in inspect.signature(recipe, eval_str=True).parameters.items():
            having.setdefault(name, {})[method] = parameter
            if name in documented:
                texts.setdefault(name, documented[name])
    flags = []
    for name, of in sorted(having.items(), key=lambda item: -len(item[1])):
        kind = _kind(next(iter(of.values())))
        own = {method: parameter.default for method, parameter in of.items()}
        flags.append(_flag(name, kind, texts.get(name, ""), own, everyone=len(own) == len(table)))
    return flags


def of_config(table: Mapping[str, Callable[..., Recipe]]) -> list[tuple[str, Any, Any]]:
    """A dataclass field (name, type, default) for each static setting that has a flag, in the order of `Config`."""
    hints, texts = get_type_hints(Config), documentation(Config, "Attributes")
    configs = {method: recipe().config for method, recipe in table.items()}
    asked = [one.name for one in fields(Config) if one.name not in METHOD_FIELDS]
    return [
        _flag(name, hints[name], texts.get(name, ""), {m: getattr(c, name) for m, c in configs.items()}, everyone=True)
        for name in asked
    ]


def documentation(of: Any, section: str) -> dict[str, str]:
    """Name -> text of a docstring section such as Args, each text on one line.

    >>> documentation(methods.reinforce, "Args")["discount"]
    'discount factor γ, from 0 to 1.'
    """
    lines = (inspect.getdoc(of) or "").split("\n")
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in lines:
        if line == f"{section}:":
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (begun := re.match(r"  (\w+): (.*)", line)):
            name = begun[1]
            found[name] = begun[2]
        elif inside and name and line.startswith("    "):
            found[name] += " " + line.strip()
    return found


def _flag(name: str, kind: Any, text: str, own: Mapping[str, Any], *, everyone: bool) -> tuple[str, Any, Any]:
    """A dataclass field: a plain switch if it is off in every method, else a value that defaults to the method's."""
    if kind is bool and not any(own.values()):
        return name, Annotated[bool, tyro.conf.arg(help=_sentence(text))], field(default=False)
    metavar = "|".join(get_args(kind)) if get_origin(kind) is Literal else kind.__name__.upper()
    shown = tyro.conf.arg(
        help=_sentence(text), metavar=metavar, help_behavior_hint=f"(default: {_own_values(own, everyone=everyone)})"
    )
    return name, Annotated[kind | None, shown], field(default=None)


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a parameter's flag; hyperparameters, which may be arrays in Python, are floats."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return next((kind for kind in (bool, int, str) if type(parameter.default) is kind), float)
    plain = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    if annotation == ArrayLike or set(get_args(ArrayLike)) <= set(plain):
        return float
    return plain[0] if len(plain) == 1 and get_origin(annotation) is not Literal else annotation


def _sentence(text: str) -> str:
    """A docstring text as help text: references to a table of names are replaced by the names."""
    text = re.sub(r"a name in ([A-Z_]+)", lambda m: f"one of {', '.join(getattr(methods, m[1], [m[1]]))}", text)
    text = text.replace("`", "")
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def _own_values(own: Mapping[str, Any], *, everyone: bool) -> str:
    """Describe the methods' defaults, the most frequent one last; without names if all methods have the same.

    >>> _own_values({"ppo": 0.2}, everyone=False), _own_values({"a": 1, "b": 2, "c": 2}, everyone=True)
    ('0.2 for ppo', '1 for a, else 2')
    """
    groups: dict[Any, list[str]] = {}
    for method, value in own.items():
        groups.setdefault("off" if value is None else value, []).append(method)
    ordered = sorted(groups.items(), key=lambda group: len(group[1]))
    if len(ordered) == 1 and not everyone:
        value, having = ordered[0]
        names = ", ".join(having) if len(having) <= MOST_NAMED else f"{len(having)} methods"
        return f"{value} for {names}"
    named = [f"{value} for {', '.join(having)}" for value, having in ordered[:-1]]
    value, having = ordered[-1]
    last = f"else {value}" if named and everyone else str(value) if everyone else f"{value} for {', '.join(having)}"
    return ", ".join([*named, last]) if everyone else "; ".join([*named, last])
