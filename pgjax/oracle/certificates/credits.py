"""Credits that a loss takes as arguments: the library's signals of every batch, and the credit of each step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.estimators.contracts import name_of
from pgjax.estimators.returns import make_signals
from pgjax.oracle.certificates.arrays import PER_TRAJECTORY, Data
from pgjax.oracle.certificates.programs import QUICK, in_chunks
from pgjax.types import Credit, SettingError, Signals

SIGNAL_ARRAYS = (
    "log_prob",
    "behaviour_log_prob",
    "action",
    "reward",
    "mask",
    "terminated",
    "truncated",
    "value",
    "next_value",
    "action_value",
    "discount",
    "group",
)


def signal_arrays(data: Data) -> dict[str, np.ndarray]:
    """The arguments of `signals_of`, without the row of padding."""
    return {
        name: x if name in PER_TRAJECTORY else x[:, :-1] for name, x in data.arrays.items() if name in SIGNAL_ARRAYS
    }


def signals_of(
    log_prob: jax.Array,
    behaviour_log_prob: jax.Array,
    reward: jax.Array,
    **rest: Any,
) -> Signals:
    """The library's Signals of one batch, under stop-gradient."""
    rest |= {"log_ratio": log_prob - behaviour_log_prob, "behaviour_log_prob": behaviour_log_prob}
    return jax.lax.stop_gradient(make_signals(reward, **rest))


CreditProgram = Callable[[Data], np.ndarray]
"""The arrays of every batch -> a credit, [B, T + 1, N], 0 on padding."""


def credit_program(credit: Credit, parameter: str) -> CreditProgram:
    """A compiled credit. Each program traces the credit anew, with the present values of what the credit reads."""

    def one(arrays: dict[str, Any]) -> jax.Array:
        found, shape = credit(signals_of(**arrays)), arrays["reward"].shape
        if found is None or isinstance(found, tuple | list | dict | str):
            raise SettingError(f"names[{parameter!r}]", name_of(credit), f"returns a {type(found).__name__}; {_WANTED}")
        try:
            return jnp.broadcast_to(jnp.asarray(found, float), shape)
        except ValueError as error:
            reason = f"returns shape {jnp.shape(found)} for rewards of shape {shape}; {_WANTED}"
            raise SettingError(f"names[{parameter!r}]", name_of(credit), reason) from error

    every = jax.jit(jax.vmap(one), compiler_options=QUICK)

    def program(data: Data) -> np.ndarray:
        try:
            with jax.enable_x64(True):
                found = np.asarray(in_chunks(every, signal_arrays(data)))
        except SettingError:
            raise
        except Exception as error:
            message = " ".join(str(error).split())[:160]
            reason = f"fails: {type(error).__name__}: {message}"
            raise SettingError(f"names[{parameter!r}]", name_of(credit), reason) from error
        return np.pad(np.where(data.mask[:, :-1] > 0, found, 0.0), ((0, 0), (0, 1), (0, 0)))

    return program


_WANTED = "a credit must return one number for each step, [T, N]"
