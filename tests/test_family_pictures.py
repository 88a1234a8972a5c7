"""Pictures of other families' environments: what is drawn is the state."""

import importlib.util

import jax
import numpy as np
import pytest
from parts import drawing
from parts.family_pictures import FAMILIES, painter

from pgjax import SettingError, environments
from pgjax.policies.uniform import uniform_policy
from pgjax.training.rollout import Visited

CASES = {
    "xland/MiniGrid-Empty-5x5": "xminigrid",
    "jumanji/Snake-v1": "jumanji",
    "pgx/minatar-breakout": "pgx",
    "brax/inverted_pendulum": "brax",
    "navix/Navix-Empty-5x5-v0": "navix",
    "playground/CartpoleBalance": "mujoco_playground",
    "craftax/Craftax-Symbolic-v1": "craftax",
    "craftax/Craftax-Classic-Symbolic-v1": "craftax",
}
SLOW = ("brax", "craftax")


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(SLOW)) for name in CASES]
)
def test_a_state_is_drawn_and_another_state_differently(name):
    if importlib.util.find_spec(CASES[name]) is None or (name.startswith("navix") and _old_navix()):
        pytest.skip(f"{CASES[name]} is not installed")
    env, key = environments.make(name), jax.random.key(0)
    drawing.check_drawable(name)
    reset, step, policy = jax.jit(env.reset), jax.jit(env.step), uniform_policy(env)
    observation, state = reset(key)
    places = [Visited(state, observation)]
    for i in range(12):
        distribution = policy(observation)
        action = distribution.to_environment(
            distribution.at(jax.tree.map(lambda x: x[0], distribution.noise(key, (1,))))
        )
        key, own = jax.random.split(jax.random.fold_in(key, i))
        observation, state, *_ = step(own, state, action)
        places.append(Visited(state, observation))
    shown = [places[0], places[0], places[-1]]
    first, again, last = (x[60:].astype(int) for x in drawing.pictures(name, shown, ["", "", ""]))
    assert first.std() > 1  # not an empty sheet
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - last).max() > 20


def _old_navix() -> bool:
    import navix

    return not hasattr(navix.Environment, "disable_autoreset")


def test_gymnax_environments_have_drawings_of_their_own():
    assert painter("CartPole-v1") is None
    with pytest.raises(SettingError, match="cannot be drawn; choose from CartPole-v1"):
        drawing.check_drawable("Swimmer-misc")
    assert set(FAMILIES) == {"xland", "navix", "craftax", "jumanji", "playground", "brax"}


def test_colours_of_other_renderers_are_kept():
    """A palette of the drawings here would turn them into its nearest."""
    own = np.zeros((40, 40, 3), np.uint8) + np.array([0, 114, 178], np.uint8)
    rng = np.random.default_rng(0)
    other = rng.integers(0, 255, (100, 3))[rng.integers(0, 100, (40, 40))].astype(np.uint8)
    kept = [np.asarray(drawing.palette_of([x]).getpalette()).reshape(-1, 3) for x in (own, other)]
    assert [255, 255, 255] in kept[0].tolist()
    near = np.abs(kept[1][None].astype(int) - other.reshape(-1, 1, 3)).sum(-1).min(1)
    assert near.mean() < 5
