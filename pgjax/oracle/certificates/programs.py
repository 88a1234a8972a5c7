"""Compiled programs that run over many batches for milliseconds."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

CHUNK = 128  # batches in one call of a compiled program
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of XLA to compile fast."""


def in_chunks(program: Callable[[Any], Any], arrays: Mapping[str, np.ndarray], axis: int = 0) -> Any:
    """Run a program on arrays [b, ...] in chunks of CHUNK rows, compiled once; outputs have batches along `axis`."""
    count, parts = len(next(iter(arrays.values()))), []
    for start in range(0, count, CHUNK):
        at = np.minimum(np.arange(start, start + CHUNK), count - 1)  # repeats the last row to fill the chunk
        parts.append(jax.device_get(program({name: x[at] for name, x in arrays.items()})))
    return jax.tree.map(lambda *x: np.take(np.concatenate(x, axis), range(count), axis), *parts)
