"""Environment parameters, such as gravity or a length. They may be traced, so new values need no recompilation.

`Environment.parameters` lists them. A sweep sets them per run (`Algorithm.environment`), and `randomise` of
`pgjax.environments.make` draws them for each episode.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from pgjax.environments.base import check_environment, described
from pgjax.environments.dtypes import is_too_large
from pgjax.types import Environment, SettingError


class Drawn(NamedTuple):
    """The state of an episode, and the parameter values drawn for it."""

    state: Any
    values: dict[str, Array]


def with_parameters(environment: Environment, values: Mapping[str, ArrayLike] | None) -> Environment:
    """The environment with other values of some parameters, given as name -> number.

    The values may be traced, for instance under `jax.vmap`. An Environment with traced values cannot be a static
    argument of a compiled function; `pgjax.evaluate` therefore takes them as `environment_parameters`.

    >>> from pgjax import environments
    >>> with_parameters(environments.make("CartPole-v1"), {"force_mag": 5.0}).parameters["force_mag"]
    5.0
    """
    if values is not None and not isinstance(values, Mapping):
        raise SettingError("environment_parameters", values, "must be a mapping, name -> number")
    if not values:
        return environment
    for name, value in values.items():
        _check_name(environment, name, value)
        if not _is_number(value):
            raise SettingError(f"environment.{name}", _shown(value), "must be one real number")
        if not isinstance(value, Tracer) and is_too_large(value):
            raise SettingError(f"environment.{name}", value, "must be finite in float32")
    values = {name: _cast(value, environment.parameters[name]) for name, value in values.items()}
    return environment._replace(
        reset=_bound(environment.reset, values),
        step=_bound(environment.step, values),
        parameters={**environment.parameters, **values},
    )


def check_parameters(environment: Environment, values: Mapping[str, Any]) -> None:
    """Check that parameters can vary in an environment, by tracing one reset and one step; nothing is compiled."""
    for name, value in values.items():
        _check_name(environment, name, value)

    def trace(numbers: dict[str, Array]) -> None:
        check_environment(with_parameters(environment, numbers))

    for name, value in values.items():
        try:
            jax.eval_shape(trace, {name: jax.ShapeDtypeStruct((), jnp.float32)})
        except Exception as error:  # a user's environment may raise anything
            one_line = (str(error).splitlines() or [type(error).__name__])[0]
            reason = f"cannot vary in {environment.name}, which needs it as a constant: "
            raise SettingError(f"environment.{name}", value, reason + one_line) from error


def _check_name(environment: Environment, name: str, value: Any) -> None:
    parameters = environment.parameters
    if name not in parameters:
        plain = str(name).removeprefix("environment.")
        if plain in parameters:
            raise SettingError("environment_parameters", name, f"must be given without the prefix: {plain}")
        if plain in _drawn(environment):
            reason = f"cannot vary in {environment.name}: it is drawn anew for each episode"
            raise SettingError(f"environment.{plain}", _shown(value), reason)
        others = f"; parameters that can: {', '.join(parameters)}" if parameters else ", which has none that can"
        raise SettingError(f"environment.{name}", _shown(value), f"cannot vary in {environment.name}{others}")
    for part in ("reset", "step"):
        if not _takes_values(getattr(environment, part)):
            reason = f"cannot vary in {environment.name}, whose {part} has no argument values={{name: number}}"
            raise SettingError(f"environment.{name}", _shown(value), reason)


def _drawn(environment: Environment) -> set[str]:
    """Names of the parameters that each reset draws."""
    try:
        state = jax.eval_shape(environment.reset, jax.eval_shape(lambda: jax.random.key(0)))[1]
    except Exception:  # a user's reset may raise anything; the caller is about to raise its own error
        return set()
    names: set[str] = set()
    while isinstance(state, Drawn):
        names |= set(state.values)
        state = state.state
    return names


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    real = jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)
    return real and np.shape(value) == () and (isinstance(value, Tracer) or not np.isnan(value))


def _cast(value: Any, default: Any) -> Any:
    """A number with the type of the default; a whole number becomes a float where the default is one."""
    if isinstance(default, float) and isinstance(value, bool | int | float | np.number):
        return float(value)
    return jnp.asarray(value, jnp.result_type(default))


def _takes_values(function: Callable) -> bool:
    taken = inspect.signature(function).parameters
    return "values" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def _bound(function: Callable, fixed: Mapping[str, ArrayLike]) -> Callable:
    def call(*arguments: Any, values: Mapping[str, ArrayLike] | None = None) -> Any:
        return function(*arguments, values={**fixed, **(values or {})})

    return call


def _shown(value: Any) -> Any:
    """A value as errors print it; a traced one by its dtype and shape."""
    return described(value) if isinstance(value, Tracer) else value
