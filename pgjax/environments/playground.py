"""MuJoCo Playground environments. mujoco_playground is imported when first used.

The task's `done` is termination, `episode_length` is truncation; both can be true on one step. Tasks of the DeepMind
Control Suite terminate only if their physics become NaN. Physics run on MJX in JAX, on any device, or with impl="warp"
on CUDA only. Locomotion and manipulation tasks need robot models that playground downloads when it loads a task. pgjax
downloads nothing: these tasks are listed once the models are on disk.
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import Counted, whole_steps
from pgjax.environments.packages import cannot_be_made, known_name, load
from pgjax.environments.space_records import Box
from pgjax.environments.spaces import action_space
from pgjax.types import Environment, SettingError

PREFIX = "playground/"
"""Prefix of the names of these environments."""

EXTRA = "playground"
"""The extra of pgjax that installs the package."""

_PRIVILEGED = "privileged_state"  # of a dict observation: known to the simulator only


def available() -> list[str]:
    """Names that `make` knows: the control suite, and the other suites if their models are on disk."""
    suites = _suites(PREFIX)
    return [PREFIX + name for suite in (suites if _models_on_disk(PREFIX) else suites[:1]) for name in suite._envs]


def factory(name: str) -> Callable:
    """The constructor of a name. Raises if playground or the task's models are missing, or the name is unknown."""
    suites = _suites(name)
    plain = known_name(name, PREFIX, [known for suite in suites for known in suite._envs])
    if plain not in suites[0]._envs and not _models_on_disk(name):
        reason = "needs robot models that are not on disk; mujoco_playground's registry.load downloads them"
        raise SettingError("environment", name, reason)
    return next(suite._envs[plain] for suite in suites if plain in suite._envs)


def make(name: str, *, impl: str = "jax", **settings: Any) -> Environment:
    """Make a task by its name after "playground/", such as "playground/CartpoleBalance".

    `impl` selects the physics, "jax" or "warp". `settings` are fields of the task's config, such as `episode_length`
    (truncation).
    """
    factory(name)
    registry, plain = load("mujoco_playground", name, EXTRA).registry, name.removeprefix(PREFIX)
    overrides = {"impl": impl} | settings
    try:
        with _quiet():
            config = registry.get_default_config(plain).lock()  # locked, so that unknown fields raise
            config.update_from_flattened_dict(overrides)
            env = registry.load(plain, config=config)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise cannot_be_made(name, overrides, error) from error
    return from_playground(
        env, name=name, episode_length=config.episode_length, action_repeat=config.get("action_repeat", 1)
    )


def from_playground(env: Any, *, name: str, episode_length: int, action_repeat: int = 1) -> Environment:
    """Wrap a `mujoco_playground.MjxEnv` with actions from −1 to 1, without playground's wrappers.

    `privileged_state` is removed from dict observations. Each action is taken for `action_repeat` steps, with their
    rewards added; `episode_length` counts these steps.
    """
    length, repeat = whole_steps("episode_length", episode_length), whole_steps("action_repeat", action_repeat)
    limit = -(-length // repeat)

    def seen(state: Any) -> Any:
        return {k: v for k, v in state.obs.items() if k != _PRIVILEGED} if isinstance(state.obs, dict) else state.obs

    def once(state: Any, action: Array) -> Any:
        given = jax.tree.map(lambda x: x, state)  # a copy, because tasks modify the dicts of their state
        return strong(env.step(given, action))

    def reset(key: Array) -> tuple[Any, Counted]:
        with _quiet():
            state = strong(env.reset(key))
        return seen(state), Counted(state, jnp.int32(0))

    def step(key: Array, state: Counted, action: Array) -> tuple[Any, Counted, Array, Array, Array]:
        after, steps = once(state.state, action), state.steps + 1
        reward = after.reward
        for _ in range(repeat - 1):
            after = once(after, action)
            reward = reward + after.reward
        return seen(after), Counted(after, steps), reward, jnp.bool_(after.done), steps >= limit

    size = int(env.action_size)
    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0],
        num_categories=None,
        action_space=action_space(Box(-1.0, 1.0, (size,), jnp.float32), name),
        horizon=limit,
    )


def _models_on_disk(name: str) -> bool:
    return load("mujoco_playground._src.mjx_env", name, EXTRA).MENAGERIE_PATH.exists()


def _suites(name: str) -> tuple[Any, ...]:
    playground = load("mujoco_playground", name, EXTRA)
    return playground.dm_control_suite, playground.locomotion, playground.manipulation


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
