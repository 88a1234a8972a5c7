"""Flags made from what methods say of themselves: their recipes' signatures and docstrings, and the fields of `Config`.

So a new method, or a new hyperparameter of one, reaches the command line by standing in the table of methods.
"""

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

NOT_ASKED = ("rollout", "critic")
"""Fields of `Config` that the method decides."""

MOST_NAMED = 6
"""How many methods a help text names one by one."""


def of_methods(table: Mapping[str, Callable[..., Recipe]]) -> list[tuple[str, Any, Any]]:
    """A field (name, type, default) for each parameter of the methods, those that most methods have first.

    Numbers become `float | None`; None stands for the method's own value. Help comes from the docstring of the first
    method that documents the parameter.

    >>> [name for name, _, _ in of_methods(methods.ALGORITHMS)][:2]
    ['learning_rate', 'discount']
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
    """A field (name, type, default) for each static setting that a method leaves open, in the order of `Config`.

    >>> [name for name, _, _ in of_config(methods.ALGORITHMS)][:2]
    ['num_envs', 'num_steps']
    """
    hints, texts = get_type_hints(Config), documentation(Config, "Attributes")
    configs = {method: recipe().config for method, recipe in table.items()}
    asked = [one.name for one in fields(Config) if one.name not in NOT_ASKED]
    return [
        _flag(name, hints[name], texts.get(name, ""), {m: getattr(c, name) for m, c in configs.items()}, everyone=True)
        for name in asked
    ]


def documentation(of: Any, section: str) -> dict[str, str]:
    """What a docstring's section says of each name, in one line.

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
    """A dataclass field; switches that are off everywhere are plain switches, all else may be left to the method."""
    if kind is bool and not any(own.values()):
        return name, Annotated[bool, tyro.conf.arg(help=_sentence(text))], field(default=False)
    metavar = "|".join(get_args(kind)) if get_origin(kind) is Literal else kind.__name__.upper()
    shown = tyro.conf.arg(
        help=_sentence(text), metavar=metavar, help_behavior_hint=f"(default: {_own_values(own, everyone=everyone)})"
    )
    return name, Annotated[kind | None, shown], field(default=None)


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a flag for a parameter: hyperparameters, which may be arrays, are numbers."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return next((kind for kind in (bool, int, str) if type(parameter.default) is kind), float)
    plain = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    if annotation == ArrayLike or set(get_args(ArrayLike)) <= set(plain):
        return float
    return plain[0] if len(plain) == 1 and get_origin(annotation) is not Literal else annotation


def _sentence(text: str) -> str:
    """A docstring's words as help: a table that is named is written out, a word at the beginning gets its capital."""
    text = re.sub(r"a name in ([A-Z_]+)", lambda m: f"one of {', '.join(getattr(methods, m[1], [m[1]]))}", text)
    text = text.replace("`", "")
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def _own_values(own: Mapping[str, Any], *, everyone: bool) -> str:
    """The methods' own values in words: the most frequent one last, without names where all methods have one.

    >>> _own_values({"ppo": 0.2}, everyone=False), _own_values({"a": 1, "b": 2, "c": 2}, everyone=True)
    ('0.2, ppo', '1 for a, else 2')
    """
    groups: dict[Any, list[str]] = {}
    for method, value in own.items():
        groups.setdefault("off" if value is None else value, []).append(method)
    ordered = sorted(groups.items(), key=lambda group: len(group[1]))
    if len(ordered) == 1 and not everyone:
        value, having = ordered[0]
        names = ", ".join(having) if len(having) <= MOST_NAMED else f"{len(having)} methods"
        return f"{value}, {names}"
    named = [f"{value} for {', '.join(having)}" for value, having in ordered[:-1]]
    value, having = ordered[-1]
    last = f"else {value}" if named and everyone else str(value) if everyone else f"{value} for {', '.join(having)}"
    return ", ".join([*named, last]) if everyone else "; ".join([*named, last])
