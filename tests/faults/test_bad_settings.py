"""Configurations that cannot work, generated field by field: each is refused before anything compiles."""

import time
from dataclasses import fields
from inspect import signature
from typing import get_type_hints

import pytest

from pgjax.methods.hyperparameters import hyperparameters
from pgjax.methods.table import ALGORITHMS
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

HINTS = {name: str(hint) for name, hint in get_type_hints(Settings).items()}
NAN, INF = float("nan"), float("inf")
MAY_BE_INFINITE = {"clip", "value_clip", "target_kl", "step_size", "max_grad_norm", "max_rho", "max_c", "max_weight"}
MAY_BE_INFINITE |= {"clip_low", "clip_high", "dual_clip", "max_mismatch"}
UP_TO_ONE = {"discount", "gae_lambda", "momentum"}
NUMBERS_OF_ANY_SIGN = {"baseline_constant", "initial_log_std"}
FREE_TEXT = {"out", "resume", "config", "coordinator", "imports"}
MUST_DIVIDE = {"accumulate", "minibatches", "group_size", "diagnostics"}


def bad_values(name):
    """What no configuration may have in a field, by the field's type."""
    hint = HINTS[name]
    if "Literal" in hint or ("str" in hint and name not in FREE_TEXT):
        return "nonsense", "", 3
    if "str" in hint:
        return 3, None
    if "bool" in hint:
        return "yes", 1, None
    if "tuple" in hint:
        zero = () if name == "seed_list" else ((0,),)
        return *zero, (64, -1), (2.5,), "64", 64, (2**40,)
    if "float" in hint:
        signs = () if name in NUMBERS_OF_ANY_SIGN else (-1.0, -INF)
        above = (1.5,) if name in UP_TO_ONE else ()
        return NAN, "much", True, (0.5,), *signs, *above, *(() if name in MAY_BE_INFINITE else (INF,))
    assert "int" in hint, name
    return (-2 if name == "process_id" else -1), 2.5, "many", True, NAN, 10**12, *((7,) if name in MUST_DIVIDE else ())


def home(name):
    """A method that has the setting."""
    having = [a for a in ALGORITHMS if name in signature(ALGORITHMS[a]).parameters]
    return {"algorithm": having[0]} if having else {}


def of_another_method(name):
    """A number that is right where it belongs, given to REINFORCE."""
    own = {*signature(ALGORITHMS["reinforce"]).parameters, *hyperparameters(ALGORITHMS["reinforce"]().algorithm)}
    return {"algorithm": "reinforce", name: 0.5} if home(name) and name not in own else None


BAD = [(f.name, {"num_envs": 12} | home(f.name) | {f.name: v}) for f in fields(Settings) for v in bad_values(f.name)]
BAD += [(f.name, of_another_method(f.name)) for f in fields(Settings) if of_another_method(f.name)]
BAD += [
    ("total_steps", {"total_steps": 2**31 - 1}),
    ("policy", {"policy": "gaussian"}),
    ("network", {"network": "cnn"}),
]


def refusal(settings):
    """The message, and the seconds it took; no message if there was none."""
    start = time.perf_counter()
    try:
        build(Settings(**{"environment": "Catch-bsuite"} | settings))
    except SettingError as error:
        return str(error), time.perf_counter() - start
    return "", time.perf_counter() - start


@pytest.mark.costly
def test_every_field_is_tried():
    assert {name for name, _ in BAD} == {f.name for f in fields(Settings)} and len(BAD) >= 60
    for name in {f.name for f in fields(Settings)}:
        assert refusal(home(name))[0] == ""


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_bad_value_of_a_field_is_refused_in_one_line_with_field_and_value(name):
    for field, settings in BAD:
        if field == name:
            message, _ = refusal(settings)
            assert message.startswith(f"{name}: {settings[name]!r} ") and "\n" not in message, (settings, message)


@pytest.mark.slow
def test_refusing_takes_less_than_a_second_each():
    refusal({})  # imports gymnax
    seconds = [refusal(settings)[1] for _, settings in BAD]
    print(f"{len(BAD)} bad configurations, slowest refused in {max(seconds):.3f} s")
    assert max(seconds) < 1.0
