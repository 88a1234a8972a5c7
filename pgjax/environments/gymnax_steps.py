"""gymnax's `reset` and `step`, with wrappers, without the automatic reset at the end of an episode.

gymnax resets inside `step`, where wrappers then see the next episode's first observation. Here the chain of wrappers is
copied around an innermost environment that does not reset. Each wrapper keeps its effect, also on final observations.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pgjax.types import SettingError


class Steps(NamedTuple):
    """A gymnax environment as two functions."""

    reset: Callable[..., tuple[Any, Any]]  # (key, params) -> (observation, state)
    step: Callable[..., tuple[Any, Any, Any, Any, Any]]  # -> (observation, state, reward, terminated, truncated)
    plain: bool  # whether they are `reset_env` and `step_env`, not overrides of `step` or `reset`
    limited: bool  # whether the environment has a time limit; else `truncated` is False


def without_resets(env: Any, params: Any, name: str) -> Steps:
    """`reset` and `step` of an environment, possibly wrapped, without automatic resets."""
    wrappers, innermost = _chain(env)
    missing = [part for part in ("reset_env", "step_env") if not hasattr(innermost, part)]
    if missing:
        raise SettingError("environment", name, f"has no {missing[0]} in {type(innermost).__name__}")
    core = _Core(innermost, name, _is_limited(innermost, params))
    if not (wrappers or core.own_step or core.own_reset):
        return Steps(core.reset_env, core.plain_step, plain=True, limited=core.limited)
    outer: Any = core
    for i, wrapper in reversed(list(enumerate(wrappers))):
        beyond = [type(w).__name__ for w in wrappers[i + 1 :] if _is_own(w, "step", "step_env")]
        outer = _copied(wrapper, outer, name, beyond[0] if beyond else None)

    def step(key: Any, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any]:
        with core.in_step():
            given = _call(outer, "step", name, key, state, action, params)
        return checked("step", given, "observation, state, reward, terminated, truncated, info")[:5]  # type: ignore

    def reset(key: Any, params: Any) -> tuple[Any, Any]:
        return checked("reset", _call(outer, "reset", name, key, params), "observation, state")  # type: ignore

    def checked(part: str, given: Any, needs: str) -> tuple:
        if not isinstance(given, tuple | list) or len(given) != needs.count(",") + 1:
            what = f"{len(given)} values" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise SettingError("environment", name, f"gives {what} in {part} of {type(env).__name__}; needs ({needs})")
        return tuple(given)

    return Steps(reset, step, plain=False, limited=core.limited)


class _Core:
    """The innermost environment as wrappers see it, with a `step` that does not reset.

    `own_step` and `own_reset` are True where its class overrides these, `limited` if `is_truncated` can be called.
    `latest` is (observation, state) of the last `step_env` within the `step` being traced.
    """

    def __init__(self, env: Any, name: str, limited: bool):
        self._env, self._name, self.limited = env, name, limited
        self.own_step, self.own_reset = _is_own(env, "step", "step_env"), _is_own(env, "reset", "reset_env")
        self._stepping = _without_inner_resets(env, self) if self.own_step else env
        self.within, self._stepped = False, False
        self.latest: tuple[Any, ...] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_env"], name)

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Context of the outermost `step`: resets are rejected, and the first trace must step this environment.

        Later traces may use a wrapper's compiled `step`, which does not call this environment.
        """
        self.within, self.latest = True, None
        try:
            yield
        finally:
            self.within, self.latest = False, None
        if not self._stepped:
            reason = "has a wrapper that never calls its step, so automatic resets cannot be removed"
            raise SettingError("environment", self._name, reason)

    def refuse_reset(self) -> None:
        if self.within:
            reason = "has a wrapper that resets within a step, which loses the final observation; remove that wrapper"
            raise SettingError("environment", self._name, reason)

    def plain_step(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, state, reward, terminated, _ = self._env.step_env(key, state, action, params)
        return observation, state, reward, terminated, self.is_truncated(state, params)

    def is_truncated(self, state: Any, params: Any) -> Any:
        return self._env.is_truncated(state, params) if self.limited else jnp.bool_(False)

    def reset(self, key: Any, params: Any = None) -> tuple[Any, Any]:
        self.refuse_reset()
        params = self._env.default_params if params is None else params
        return _call(self._env, "reset" if self.own_reset else "reset_env", self._name, key, params)

    def reset_env(self, key: Any, params: Any) -> tuple[Any, Any]:
        self.refuse_reset()
        return self._env.reset_env(key, params)

    def step(self, key: Any, state: Any, action: Any, params: Any = None) -> Any:
        params = self._env.default_params if params is None else params
        if self.own_step:
            self._stepped = True
            given = _call(self._stepping, "step", self._name, key, state, action, params)
            if not isinstance(given, tuple | list) or len(given) != 6:
                return given  # the caller raises
            observation, state, reward, terminated, truncated, info = given
        else:
            observation, state, reward, terminated, info = self.step_env(key, state, action, params)
            truncated = self.is_truncated(state, params)
        return observation, state, reward, terminated, truncated, info | _ends(observation, terminated, truncated)

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        self._stepped = True
        return self._env.step_env(key, state, action, params)


def _ends(observation: Any, terminated: Any, truncated: Any) -> dict[str, Any]:
    """What gymnax's `step` adds to `info`."""
    return {"terminated": terminated, "truncated": truncated, "final_observation": observation}


def _without_inner_resets(env: Any, core: _Core) -> Any:
    """A copy of an environment that overrides `step`; a reset within it returns the result of `step_env`."""
    kind = type(env)

    def step_env(self: Any, *arguments: Any, **named: Any) -> Any:
        given = kind.step_env(self, *arguments, **named)
        core.latest = tuple(given[:2])
        return given

    def kept(name: str) -> Callable:
        def reset(self: Any, *arguments: Any, **named: Any) -> Any:
            if core.within and core.latest is not None:
                return core.latest
            core.refuse_reset()
            return getattr(kind, name)(self, *arguments, **named)

        return reset

    changed = type(
        kind.__name__, (kind,), {"step_env": step_env, "reset": kept("reset"), "reset_env": kept("reset_env")}
    )
    return _copy(env, changed)


def _is_limited(env: Any, params: Any) -> bool:
    """Whether `is_truncated` can be called: gymnax's own needs a limit in the parameters and a time in the state."""
    if not hasattr(env, "is_truncated"):
        return False
    definer = next((kind for kind in type(env).__mro__ if "is_truncated" in vars(kind)), None)
    if definer is None or definer.__module__ != "gymnax.environments.environment":
        return True
    if not hasattr(params, "max_steps_in_episode"):
        return False
    reset = env.reset if _is_own(env, "reset", "reset_env") else env.reset_env
    state = jax.eval_shape(lambda key: reset(key, params)[1], jax.eval_shape(lambda: jax.random.key(0)))
    return hasattr(state, "time")


def _chain(env: Any) -> tuple[list[Any], Any]:
    """Wrappers from the outermost inwards, and the innermost environment."""
    wrappers = []
    while (inner := _inner(env)) is not None:
        wrappers.append(env)
        env = inner
    return wrappers, env


def _inner(env: Any) -> Any:
    """The environment that an object wraps, or None."""
    held = _held(env)
    candidates = [held.pop("_env", None), *held.values()]
    parts = "step", "reset", "action_space", "observation_space"
    return next((x for x in candidates if all(hasattr(x, part) for part in parts)), None)


def _held(env: Any) -> dict[str, Any]:
    """An object's own attributes."""
    slots = [slot for kind in type(env).__mro__ for slot in getattr(kind, "__slots__", ())]
    return {slot: getattr(env, slot) for slot in slots if hasattr(env, slot)} | dict(getattr(env, "__dict__", {}))


def _copy(env: Any, kind: type) -> Any:
    """A shallow copy as an object of this class. (`copy.copy` recurses endlessly in wrappers that forward lookups.)"""
    clone = object.__new__(kind)
    for field, value in _held(env).items():
        if field not in ("__dict__", "__weakref__"):
            object.__setattr__(clone, field, value)
    return clone


def _is_own(env: Any, name: str, beneath: str) -> bool:
    """Whether the class's last override is of `step` (`reset`), rather than of `step_env` (`reset_env`)."""
    kinds = type(env).__mro__
    here, below = (next((i for i, kind in enumerate(kinds) if x in vars(kind)), None) for x in (name, beneath))
    if here is None or kinds[here].__module__.startswith("gymnax.environments"):
        return False
    return below is None or here <= below


def _copied(wrapper: Any, inner: Any, name: str, beyond: str | None) -> Any:
    """A copy of a wrapper around another environment. A wrapper that overrides `step_env` gets a `step` that calls it.

    `beyond` is the name of a wrapper further inside that overrides `step`, or None.
    """
    kind, original = type(wrapper), _inner(wrapper)
    bound = {"step", "reset"} & _held(wrapper).keys()
    if bound:
        reason = f"is wrapped in {kind.__name__}, whose {min(bound)} is not a method; remove that wrapper"
        raise SettingError("environment", name, reason)
    clone = _copy(wrapper, kind)
    for field, value in _held(wrapper).items():
        if value is original:
            object.__setattr__(clone, field, inner)
        elif getattr(value, "__self__", None) is original and hasattr(value, "__name__"):
            object.__setattr__(clone, field, getattr(inner, value.__name__))
    own_step = _is_own(wrapper, "step", "step_env")
    if not own_step and (hasattr(kind, "step_env") or hasattr(kind, "is_truncated")):
        core_steps = getattr(inner, "own_step", False)
        if beyond or core_steps:
            reason = f"is wrapped in {kind.__name__}, which overrides step_env, around {beyond or 'a class'}, which"
            raise SettingError("environment", name, f"{reason} overrides step; both must override step")

        def step(key: Any, state: Any, action: Any, params: Any = None) -> Any:
            params = clone.default_params if params is None else params
            observation, state, reward, terminated, info = clone.step_env(key, state, action, params)
            truncated = clone.is_truncated(state, params)
            return observation, state, reward, terminated, truncated, info | _ends(observation, terminated, truncated)

        object.__setattr__(clone, "step", step)
    if not _is_own(wrapper, "reset", "reset_env") and hasattr(kind, "reset_env"):
        object.__setattr__(clone, "reset", clone.reset_env)
    return clone


def _call(env: Any, part: str, name: str, *arguments: Any) -> Any:
    """Call a method of gymnax's interface."""
    function = getattr(env, part, None)
    takes = "key, state, action, params" if part == "step" else "key, params"
    needs = f"needs {part}({takes}) in {type(env).__name__}"
    if function is None:
        raise SettingError("environment", name, needs)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise SettingError("environment", name, f"{needs}: {error}") from None
    except ValueError:  # a builtin without a signature
        pass
    return function(*arguments)
