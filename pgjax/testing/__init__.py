"""Assertions for test suites of your own: on any loss, and on what an estimator declares of itself."""

from pgjax.testing.declarations import assert_declarations
from pgjax.testing.losses import (
    assert_a_gradient,
    assert_padding_ignored,
    assert_same_estimator,
    assert_scale,
    assert_unbiased,
)
