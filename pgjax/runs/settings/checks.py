"""Checks of the type and range of each setting, whether it comes from a command line, a file or a notebook."""

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pgjax.counters import LARGEST
from pgjax.methods import ALGORITHMS, BASELINES, CREDITS
from pgjax.methods.hyperparameters import check_number
from pgjax.methods.optimizers import OPTIMIZERS
from pgjax.methods.reference import REFERENCE_KLS
from pgjax.methods.schedules import SCHEDULES
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError


def check_values(settings: Settings) -> None:
    """Reject values that are invalid whatever the other settings are; raises SettingError for the first one."""
    check_fields(settings)
    counts = "seeds", "total_steps", "eval_episodes", "updates_per_chunk", "keep", "max_skipped", "join_timeout"
    for name in (*counts, "exploit_every"):
        if getattr(settings, name) < 1:
            raise SettingError(name, getattr(settings, name), "must be at least 1")
    for name in ("devices", "save_every", "eval_every", "warmup_steps", "population"):
        if getattr(settings, name) < 0:
            raise SettingError(name, getattr(settings, name), "must not be negative")
    settings.chosen_seeds()
    if settings.mesh and (len(settings.mesh) != 2 or min(settings.mesh) < 1):
        raise SettingError("mesh", settings.mesh, "must be two numbers from 1: devices for seeds, for environments")
    tables = {"algorithm": ALGORITHMS, "credit": CREDITS, "baseline": BASELINES, "optimizer": OPTIMIZERS}
    tables["learning_rate_schedule"] = SCHEDULES
    tables["reference_kl"] = dict.fromkeys(REFERENCE_KLS)
    for name, table in tables.items():
        if getattr(settings, name) is not None:
            known(name, getattr(settings, name), table)


def known(field: str, name: str, table: Mapping[str, Any]) -> None:
    """Reject a name that a table does not contain, listing the names that it does."""
    if name not in table:
        raise SettingError(field, name, f"is none of {', '.join(table)}")


def check_fields(settings: Any) -> None:
    """Reject field values of a dataclass that have the wrong type, and numbers that are out of range."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        kinds = _alternatives(hints[field.name])
        if NoneType not in kinds or getattr(settings, field.name) is not None:
            _check(field.name, next(kind for kind in kinds if kind is not NoneType), getattr(settings, field.name))


def _check(name: str, kind: Any, value: Any) -> None:
    reason = _why_not(kind, value)
    if reason:
        raise SettingError(name, value, reason)
    if kind is float:
        check_number(name, value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _why_not(kind: Any, value: Any) -> str:
    """Why a value does not have a type; empty if it has."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return "" if value in choices else f"is none of {', '.join(choices)}"
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        fits = isinstance(value, (tuple, list)) and not any(_why_not(each, x) for x in value)
        what = {int: "whole numbers", str: "strings"}.get(each) or f"names out of {', '.join(get_args(each))}"
        return "" if fits else f"must be a list of {what}"
    if kind is int:
        if not isinstance(value, int) or isinstance(value, bool):
            return "must be a whole number"
        return "" if abs(value) <= LARGEST else f"must be at most {LARGEST}"
    if kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if fits else "must be a number"
    return "" if isinstance(value, kind) else {str: "must be a string", bool: "must be true or false"}[kind]
