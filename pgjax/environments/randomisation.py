"""Domain randomisation: environment parameters drawn independently for each episode. In gymnax's CartPole,
`polemass_length` and `total_mass` are separate numbers, so `length` changes the pole's half length in the equations and
not its moment.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pgjax.environments.dtypes import is_too_large
from pgjax.environments.parameters import Drawn, check_parameters
from pgjax.types import Environment, SettingError

Ranges = Mapping[str, Sequence[float]]
"""Name of a parameter -> (low, high)."""


def randomised(environment: Environment, ranges: Ranges) -> Environment:
    """The environment with parameters that each reset draws uniformly from (low, high).

    Values stay fixed until the episode ends; episodes that share a reset (`group_size`) share them. They are not part
    of the observation. A reset splits its key: one half draws the values, the other resets the environment.
    """
    bounds = {name: _bounds(name, low_high) for name, low_high in ranges.items()}
    if not bounds:
        return environment
    check_parameters(environment, {name: list(low_high) for name, low_high in bounds.items()})

    def reset(key: Array, values: Mapping[str, ArrayLike] | None = None) -> tuple[Any, Drawn]:
        drawing_key, key = jax.random.split(key)
        keys = jax.random.split(drawing_key, len(bounds))
        drawn = {
            name: jax.random.uniform(draw_key, (), jnp.float32, *low_high)
            for draw_key, (name, low_high) in zip(keys, bounds.items(), strict=True)
        }
        observation, state = environment.reset(key, values={**(values or {}), **drawn})
        return observation, Drawn(state, drawn)

    def step(
        key: Array, state: Drawn, action: Array, values: Mapping[str, ArrayLike] | None = None
    ) -> tuple[Any, Drawn, Array, Array, Array]:
        all_values = {**(values or {}), **state.values}
        observation, after, *rest = environment.step(key, state.state, action, values=all_values)
        return observation, Drawn(after, state.values), *rest  # type: ignore[return-value]

    fixed = {name: value for name, value in environment.parameters.items() if name not in bounds}
    return environment._replace(reset=reset, step=step, parameters=fixed)


def _bounds(name: str, of: Any) -> tuple[float, float]:
    """Low and high as numbers."""
    try:
        numbers = [np.asarray(bound) for bound in of]
        fits = len(numbers) == 2 and all(bound.shape == () and bound.dtype.kind in "iuf" for bound in numbers)
        low, high = map(float, numbers) if fits else (math.nan, math.nan)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SettingError(f"randomise.{name}", of, "must be a range (low, high) of two finite numbers")
    if low > high:
        raise SettingError(f"randomise.{name}", of, "must be a range (low, high) with low at most high")
    if is_too_large([low, high, high - low]):
        raise SettingError(f"randomise.{name}", of, "must have bounds and a width that are finite in float32")
    return low, high
