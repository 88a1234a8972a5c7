"""Assertions for test suites: on losses, and on the declarations of estimators.

`loss` and the keyword arguments `how` are those of `pgjax.certify`. The default tolerance is rounding: 1e-9, or 1e-5
for a loss that computes in float32. An AssertionError names the problem and the largest difference.
"""

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
