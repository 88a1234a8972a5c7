"""Assertions for test suites: on losses, and on the declarations of estimators."""

from pgjax.testing.declarations import assert_declarations
from pgjax.testing.losses import (
    assert_a_gradient,
    assert_padding_ignored,
    assert_same_estimator,
    assert_scale,
    assert_unbiased,
)

__all__ = [
    "assert_a_gradient",
    "assert_declarations",
    "assert_padding_ignored",
    "assert_same_estimator",
    "assert_scale",
    "assert_unbiased",
]
