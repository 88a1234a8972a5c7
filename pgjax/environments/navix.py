"""navix environments. navix is imported when first used.

navix's step type TERMINATION is termination; `max_steps` is truncation. Both can be true on one step (navix then
reports TERMINATION only). The automatic reset is turned off. Grids of codes (navix's `categorical` and `symbolic`
observations) are categories, hence one-hot for a network; pixels are not.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from pgjax.environments.dtypes import strong
from pgjax.environments.limits import whole_steps
from pgjax.environments.packages import cannot_be_made, known_name, load
from pgjax.environments.space_records import Discrete, codes
from pgjax.environments.spaces import action_space, categories
from pgjax.types import Environment, SettingError

PREFIX = "navix/"
"""Prefix of the names of these environments."""

EXTRA = "navix"
"""The extra of pgjax that installs the package."""


def available() -> list[str]:
    """Names that `make` knows, with those registered by `navix.register_env`. Raises if navix is not installed."""
    return [PREFIX + name for name in _navix(PREFIX).registry()]


def factory(name: str) -> Callable:
    """The constructor of a name. Raises if navix is not installed or the name is unknown."""
    known = _navix(name).registry()
    return known[known_name(name, PREFIX, known)]


def make(name: str, *, observation_fn: Any = None, **settings: Any) -> Environment:
    """Make an environment by its name after "navix/", such as "navix/Navix-Empty-5x5-v0".

    `observation_fn` is a function of `navix.observations` or its name, such as "symbolic_first_person". `settings` are
    those of the task, such as `max_steps` (truncation).
    """
    constructor, navix = factory(name), _navix(name)
    if isinstance(observation_fn, str):
        function = getattr(navix.observations, observation_fn, None)
        if not callable(function):
            raise SettingError("observation_fn", observation_fn, "is not a function of navix.observations")
        observation_fn = function
    chosen = settings if observation_fn is None else settings | {"observation_fn": observation_fn}
    try:
        return from_navix(constructor(**chosen), name=name)
    except SettingError:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        raise cannot_be_made(name, settings, error) from error


def from_navix(env: Any, *, name: str) -> Environment:
    """Wrap a `navix.Environment`, with or without automatic resets."""
    limit = whole_steps("max_steps", env.max_steps)
    env = env.replace(disable_autoreset=True)

    def reset(key: Array) -> tuple[Any, Any]:
        timestep = strong(env.reset(key))
        return timestep.observation, timestep

    def step(key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        after = strong(env.step(state, action))
        return after.observation, after, after.reward, after.is_termination(), after.t >= limit

    observation = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))[0]
    return Environment(
        name=name,
        reset=reset,
        step=step,
        observation=observation,
        num_categories=categories(_codes(env, observation, name), observation, name),
        action_space=action_space(Discrete(int(env.action_space.n)), name),
        horizon=limit,
    )


def _codes(env: Any, observation: Any, name: str) -> Any:
    """The space of a grid of codes; None for other observations."""
    observations = _navix(name).observations
    of_codes = (
        observations.categorical,
        observations.categorical_first_person,
        observations.symbolic,
        observations.symbolic_first_person,
    )
    if env.observation_fn not in of_codes:
        return None
    count = load("navix.environments.environment", name, EXTRA).MAX_CATEGORICAL_VALUE
    return codes(int(count), observation.shape)


def _navix(name: str) -> Any:
    navix = load("navix", name, EXTRA)
    if not hasattr(navix.Environment, "disable_autoreset"):  # pip installs an older navix for Python 3.11
        raise SettingError("environment", name, "needs navix 4, which needs Python 3.12; the installed one is older")
    return navix
