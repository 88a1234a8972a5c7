"""Checked `reset` and `step` of an environment, as the rest of the package calls them.

All checks use shapes and dtypes while a program is traced; the compiled program has none.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from pgjax.environments.dtypes import strong
from pgjax.spaces import Discrete, is_part, no_action, parts
from pgjax.types import Environment, SettingError

_RESET_RETURNS = ("observation", "state")
_STEP_RETURNS = ("observation", "state", "reward", "terminated", "truncated")


def reset(environment: Environment, key: Array) -> tuple[Any, Any]:
    """Start an episode: (observation, state), as arrays of the declared shapes and dtypes.

    `key` is a typed key or one from `jax.random.PRNGKey`.
    """
    observation, state = _call(environment, "reset", _RESET_RETURNS, key=_typed(key))
    state = strong(_arrays(environment, "reset", "state", state))
    return _observation(environment, "reset", observation, lambda: None), state


def step(environment: Environment, key: Array, state: Any, action: Any) -> tuple[Any, Any, Array, Array, Array]:
    """Take one step: (observation, state, reward, terminated, truncated).

    The reward is cast to the default float type (float64 under `jax_enable_x64`), the flags to bool. A flat action of a
    Box or MultiDiscrete is reshaped to the shape of the space. The state must keep its dtypes.
    """
    before = strong(_arrays(environment, "step", "state", state))
    key, action = _typed(key), _shaped_action(environment, action)
    given = _call(environment, "step", _STEP_RETURNS, key=key, state=before, action=action)
    observation, after, reward, terminated, truncated = given
    at_reset = partial(jax.eval_shape, partial(reset, environment), key)
    observation = _observation(environment, "step", observation, lambda: at_reset()[0])
    after = _fitted(environment, "step", "state", after, before, "as before the step")
    ends = (_flag(environment, name, x) for name, x in (("terminated", terminated), ("truncated", truncated)))
    return observation, after, _reward(environment, reward), *ends  # type: ignore[return-value]


def horizon(environment: Environment) -> int:
    """The declared number of steps after which every episode has ended. Raises unless it is a positive whole number."""
    steps = environment.horizon
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        reason = f"of environment {environment.name!r} must be a whole number of steps, at least 1"
        raise SettingError("horizon", steps, reason)
    return int(steps)


def check_environment(environment: Environment) -> None:
    """Trace one reset and one step and check them; nothing is compiled or run. The SettingError names the environment,
    the part, what it returned and what is needed.
    """
    horizon(environment)
    action = _example_action(environment)

    def one_step(key: Array) -> None:
        _, state = reset(environment, key)
        if action is not None:
            step(environment, key, state, action)

    jax.eval_shape(one_step, jax.eval_shape(lambda: jax.random.key(0)))


def refuse(environment: Environment, reason: str) -> SettingError:
    """A SettingError about an environment."""
    return SettingError("environment", environment.name, reason)


def described(x: Any) -> str:
    """A value's dtype and shape, as in float32[2,3]."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None:
        return type(x).__name__
    return f"{dtype}[{','.join(map(str, shape))}]"


def _call(environment: Environment, part: str, names: tuple[str, ...], **arguments: Any) -> tuple:
    """Call `reset` or `step` with positional arguments and check the number of results."""
    function: Callable = getattr(environment, part)
    takes = f"needs {part}({', '.join(arguments)})"
    if not callable(function):
        raise refuse(environment, f"has a {part} {function!r} that is not a function; {takes}")
    try:
        inspect.signature(function).bind(*arguments.values())
    except TypeError as error:
        raise refuse(environment, f"has a {part} with other arguments ({error}); {takes}") from None
    except ValueError:  # a builtin without a signature
        pass
    try:
        given = function(*arguments.values())
    except jax.errors.JAXTypeError as error:
        raise refuse(environment, f"has a {part} that JAX cannot trace; use jax.numpy and jax.lax in it") from error
    if not isinstance(given, tuple | list) or len(given) != len(names):
        what = f"{len(given)} values" if isinstance(given, tuple | list) else described(given)
        raise refuse(environment, f"gives {what} in {part}; needs ({', '.join(names)})")
    return tuple(given)


def _observation(environment: Environment, part: str, given: Any, undeclared: Callable[[], Any]) -> Any:
    """An observation as declared; if it is not declared, as `undeclared()` describes."""
    wanted, source = environment.observation, "as declared"
    if wanted is None:
        wanted, source = undeclared(), "as at a reset"
        if wanted is None:
            return strong(_arrays(environment, part, "observation", given))
    return _fitted(environment, part, "observation", given, wanted, source, narrow=True)


def _fitted(
    environment: Environment, part: str, what: str, given: Any, wanted: Any, source: str, *, narrow: bool = False
) -> Any:
    """A pytree as arrays of the wanted structure, shapes and dtypes; `narrow` casts floats of any width."""
    given = _arrays(environment, part, what, given)
    leaves, structure = tree_flatten_with_path(given)
    wanted_leaves, wanted_structure = tree_flatten_with_path(wanted)
    for path, y in wanted_leaves:
        if not (hasattr(y, "shape") and hasattr(y, "dtype")):
            raise refuse(environment, f"declares {what}{keystr(path)} as {y!r}; needs a shape and a dtype")
    if structure != wanted_structure:
        paths, wanted_paths = ([keystr(path) for path, _ in x] for x in (leaves, wanted_leaves))
        extra, missing = ([p for p in x if p not in y] for x, y in ((paths, wanted_paths), (wanted_paths, paths)))
        if missing:
            reason = f"gives no {what}{missing[0]} in {part}" + (f", but {what}{extra[0]}" if extra else "")
        elif extra:
            reason = f"gives {what}{extra[0]} in {part}"
        else:
            reason = f"gives {what} as {structure} in {part}"
        needs = wanted_structure if not (missing or extra) else ", ".join(f"{what}{p}" for p in wanted_paths)
        raise refuse(environment, f"{reason}; needs {needs}, {source}")

    def one(path: Any, x: Array, y: Any) -> Array:
        same = x.dtype == y.dtype
        weak = not same and _is_weak(x) and jnp.result_type(y.dtype, x) == y.dtype
        floats = narrow and jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(y.dtype, jnp.floating)
        if x.shape != tuple(y.shape) or not (same or weak or floats):
            reason = f"gives {what}{keystr(path)} {described(x)} in {part}; needs {described(y)}, {source}"
            raise refuse(environment, reason)
        return x if same and not _is_weak(x) else x.astype(y.dtype)

    fitted = [one(path, x, y) for (path, x), (_, y) in zip(leaves, wanted_leaves, strict=True)]
    return jax.tree.unflatten(structure, fitted)


def _arrays(environment: Environment, part: str, what: str, tree: Any) -> Any:
    """Every leaf as an array. Python numbers stay weakly typed, for `_fitted` to cast."""

    def one(path: Any, x: Any) -> Array:
        try:
            return jnp.asarray(x)
        except TypeError:
            raise refuse(environment, f"gives {what}{keystr(path)} {described(x)} in {part}; needs an array") from None

    return jax.tree_util.tree_map_with_path(one, tree)


def _is_weak(x: Array) -> bool:
    return bool(getattr(x.aval, "weak_type", False))  # type: ignore[attr-defined]


def _scalar(environment: Environment, what: str, given: Any, needs: str, kinds: tuple) -> Array:
    try:
        x = jnp.asarray(given)
    except TypeError:
        raise refuse(environment, f"gives {what} {described(given)} in step; needs {needs}") from None
    if x.shape != () or not any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
        raise refuse(environment, f"gives {what} {described(x)} in step; needs {needs}, shape ()")
    return x


def _reward(environment: Environment, given: Any) -> Array:
    kinds = jnp.bool_, jnp.integer, jnp.floating
    return _scalar(environment, "a reward", given, "one real number", kinds).astype(jnp.result_type(float))


def _flag(environment: Environment, name: str, given: Any) -> Array:
    return _scalar(environment, name, given, "one bool or whole number", (jnp.bool_, jnp.integer)).astype(bool)


def _shaped_action(environment: Environment, action: Any) -> Any:
    """Each part of an action in the shape of its space."""
    if environment.action_space is None:  # not declared: left to the user's policy
        return action
    spaces, paths, structure = parts(environment.action_space)
    try:
        actions = structure.flatten_up_to(action)
    except ValueError:
        given = jax.tree.structure(action)
        raise refuse(environment, f"gets an action {given}; its action space is {environment.action_space}") from None

    def one(part: Any, path: str, x: Any) -> Any:
        if isinstance(part, Discrete):
            return x
        shape, x = tuple(part.shape), jnp.asarray(x)
        if x.size != np.prod(shape, dtype=int):
            kind = type(part).__name__
            raise refuse(environment, f"gets an action{path} {described(x)}; its {kind} has shape {shape}")
        return x.reshape(shape)

    return structure.unflatten([one(*each) for each in zip(spaces, paths, actions, strict=True)])


def _example_action(environment: Environment) -> Any:
    space = environment.action_space
    if space is None:  # not declared: left to the user's policy
        return None
    for part, path in zip(*parts(space)[:2], strict=True):
        if not is_part(part):
            where = f" for action{path}" if path else ""
            needs = "needs pgjax.spaces.Discrete, MultiDiscrete, MultiBinary or Box, or a pytree of these"
            raise refuse(environment, f"has an action space {part!r}{where}; {needs}")
    return no_action(space)


def _typed(key: Array) -> Array:
    """A typed key, also from a raw one."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
