"""Speed-ups of training and its distribution over devices. They do not change results beyond rounding.

Each speed-up is a function with a plain counterpart of the same meaning; an `Engine` chooses between them.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from pgjax.engine import blocks, control_flow, memory_loop, resets
from pgjax.types import SettingError


class Engine(NamedTuple):
    """A choice of speed-ups. Every field has the signature of its plain counterpart and, up to rounding, its result
    wherever that is used.
    """

    gradient_sum: Callable  # the gradient of a batch, at once or over blocks that fit a core's cache
    rows: Callable  # a function of single steps on a batch, at once or over such blocks
    in_turn: Callable  # calls under vmap, in parallel or one after the other
    scan_while_running: Callable  # a loop over an episode's steps, to the horizon or until all episodes have ended
    resets: Callable  # of a stream: within its loop, before it, or only where an episode ended
    recurrence: Callable  # a memory along the steps of a batch, step by step or by its own loop
    values: Callable  # of a critic at and after each step, by two calls or along the rows
    on_one_vector: Callable  # an elementwise optimiser, on the tree or on one flat vector

    def for_forward_mode(self) -> "Engine":
        """The engine without speed-ups that `jax.jvp` cannot differentiate."""
        return self._replace(recurrence=memory_loop.step_by_step)


def _on_the_tree(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optimizer


PLAIN = Engine(
    gradient_sum=blocks.at_once,
    rows=blocks.rows_at_once,
    in_turn=control_flow.side_by_side,
    scan_while_running=control_flow.scan,
    resets=resets.in_the_loop,
    recurrence=memory_loop.step_by_step,
    values=control_flow.values_of_both,
    on_one_vector=_on_the_tree,
)
ACCELERATOR = PLAIN._replace(
    scan_while_running=control_flow.scan_while_running,
    resets=resets.by_cost,
    values=control_flow.values_along,
    on_one_vector=optax.flatten,
)
CPU = ACCELERATOR._replace(
    gradient_sum=blocks.in_blocks,
    rows=blocks.rows_in_blocks,
    in_turn=control_flow.in_turn,
    recurrence=memory_loop.own_loop,
)
ENGINES = {"plain": PLAIN, "cpu": CPU, "accelerator": ACCELERATOR}


def asked(name: str = "auto") -> str:
    """Check an engine name; "auto" becomes the value of the environment variable PGJAX_ENGINE, if it is set."""
    name = os.environ.get("PGJAX_ENGINE", name) if name == "auto" else name
    if name not in ("auto", *ENGINES):
        raise SettingError("engine", name, f"is none of auto, {', '.join(ENGINES)}")
    return name


def engine(name: str = "auto") -> Engine:
    """The Engine of this name; "auto" chooses for the default device."""
    name = asked(name)
    return ENGINES[("cpu" if jax.default_backend() == "cpu" else "accelerator") if name == "auto" else name]
