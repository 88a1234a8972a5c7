"""Blocks of steps that fit a core's cache: the same numbers, and no block that is larger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.engine.blocks import CACHED_STEPS, rows_in_blocks


@pytest.mark.parametrize(
    ("steps", "width", "block"),
    [
        (128, 64, 4),
        (128, 1024, 1),
        (128, 3, 64),
        (128, 2, 128),
        (12, 100, 2),
        (127, 1, 127),
        (127, 5, 127),
        (7, 300, 1),
    ],
)
def test_rows_in_blocks_are_all_rows_once_and_in_order(steps, width, block):
    x = {"a": jnp.arange(steps * width).reshape(steps, width), "b": jnp.ones((steps, width, 2))}
    seen = []

    def function(x):
        seen.append(x["a"].shape)
        return x["a"] + x["b"].sum(axis=-1), x["b"]

    first, second = jax.jit(lambda x: rows_in_blocks(function, x))(x)
    np.testing.assert_array_equal(first, x["a"] + 2)
    np.testing.assert_array_equal(second, x["b"])
    assert set(seen) == {(block, width)}
    assert block * width <= CACHED_STEPS or block == 1 or block == steps
