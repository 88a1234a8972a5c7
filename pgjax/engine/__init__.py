"""How training is made fast and spread over devices; nothing of what it means.

Every speed-up is one function with a plain twin: an `Engine` is a choice between them.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from pgjax.engine import blocks, control_flow, resets
from pgjax.types import SettingError


class Engine(NamedTuple):
    """One choice of speed-ups; every field has the plain twin's signature and result.

    Attributes:
      gradient_sum: the gradient of a batch, at once or over blocks that fit a core's cache.
      rows: a function of single steps over a batch of them, at once or over blocks that fit a core's cache.
      in_turn: calls that are mapped over, side by side or one after the other.
      scan_while_running: a loop over an episode's steps, to the horizon or until none runs any more.
      resets: of a stream, at every step of its loop, before it, or only where an episode ended.
      values: of a critic at and after each step, by two calls or along the rows.
      on_one_vector: an optimiser that treats every number alike, on the tree or on one vector.
    """

    gradient_sum: Callable
    rows: Callable
    in_turn: Callable
    scan_while_running: Callable
    resets: Callable
    values: Callable
    on_one_vector: Callable


def _on_the_tree(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optimizer


PLAIN = Engine(
    gradient_sum=blocks.at_once,
    rows=blocks.rows_at_once,
    in_turn=control_flow.side_by_side,
    scan_while_running=control_flow.scan,
    resets=resets.in_the_loop,
    values=control_flow.values_of_both,
    on_one_vector=_on_the_tree,
)
ACCELERATOR = PLAIN._replace(
    scan_while_running=control_flow.scan_while_running,
    resets=resets.as_it_pays,
    values=control_flow.values_along,
    on_one_vector=optax.flatten,
)
CPU = ACCELERATOR._replace(gradient_sum=blocks.in_blocks, rows=blocks.rows_in_blocks, in_turn=control_flow.in_turn)
ENGINES = {"plain": PLAIN, "cpu": CPU, "accelerator": ACCELERATOR}


def asked(name: str = "auto") -> str:
    """What a name asks for: "auto" is what the environment variable PGJAX_ENGINE says, if it is set.

    Raises:
      SettingError: for a name that is not in ENGINES.

    >>> asked("plain")
    'plain'
    """
    name = os.environ.get("PGJAX_ENGINE", name) if name == "auto" else name
    if name not in ("auto", *ENGINES):
        raise SettingError("engine", name, f"is none of auto, {', '.join(ENGINES)}")
    return name


def engine(name: str = "auto") -> Engine:
    """The choice of speed-ups that a name means here; "auto" suits the default device.

    >>> engine("plain") is PLAIN
    True
    """
    name = asked(name)
    return ENGINES[("cpu" if jax.default_backend() == "cpu" else "accelerator") if name == "auto" else name]
