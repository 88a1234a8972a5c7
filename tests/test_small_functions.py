"""Small pure functions that other tests use only indirectly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from pgjax.engine.control_flow import anywhere, in_turn
from pgjax.engine.devices import asked_mesh
from pgjax.engine.memory import check_room
from pgjax.engine.output import plain, unfailing
from pgjax.environments.dtypes import is_too_large, strong
from pgjax.environments.limits import whole_steps
from pgjax.policies import gru
from pgjax.population import ancestry
from pgjax.sweeps.evaluation import points_passed
from pgjax.sweeps.progress import returns_in_words, short
from pgjax.training.keys import as_key
from pgjax.training.metrics import per_episode
from pgjax.types import SettingError


def test_texts_for_terminals():
    assert (
        plain("γ = 0.9, 2 × 3 …") == "gamma = 0.9, 2 x 3 ..."
        and plain("┏━┃") == "+-|"
        and plain("naïve 頁") == "naive ?"
    )
    assert [short(x) for x in (400_000, 1_234_567, 36)] == ["400k", "1.23M", "36"]
    assert returns_in_words(np.array([20.0, np.nan, 500.0]), seeds=[3, 4, 5]) == "return 260 (seed 3: 20, seed 5: 500)"
    assert returns_in_words(np.array([np.nan])) == "no episode has ended"
    with open("/dev/full", "w", encoding="utf-8") as full:
        print("is dropped", file=unfailing(full), flush=True)


def test_calls_under_vmap():
    assert jax.vmap(lambda x: in_turn(jnp.square, x))(jnp.arange(3)).tolist() == [0, 1, 4]
    assert bool(jax.vmap(anywhere, out_axes=None)(jnp.array([False, True])))


def test_numbers():
    assert (is_too_large(1e38), is_too_large(1e39)) == (False, True)
    assert (jnp.asarray(1.0).weak_type, strong(1.0).weak_type) == (True, False)
    assert points_passed(np.array([900, 1100]), every=500) == 2 and points_passed(np.array([900, 1098]), every=500) == 1
    assert float(per_episode(jnp.array([1.0, 3.0]), mask=jnp.ones((5, 2))).value()) == 2.0
    assert bool(as_key(jax.random.PRNGKey(0)) == jax.random.key(0))


def test_the_second_member_continues_from_the_first_before_its_second_update():
    parents = np.array([[5, 5, 5], [7, 5, 7]])
    assert ancestry({"parent": parents}, 1).tolist() == [0, 1, 1]


def test_numbers_that_are_rejected():
    with pytest.raises(SettingError, match="^time_limit: 0 must be a whole number of at least 1$"):
        whole_steps("time_limit", 0)
    check_room("num_envs", 8, 4000, "states of environments")
    with pytest.raises(SettingError, match=r"^num_envs: 8 needs 1.2e\+09 GB for states of environments, of .* GB"):
        check_room("num_envs", 8, 2**60, "states of environments")
    with pytest.raises(SettingError, match="^seeds: 3 runs cannot be spread evenly over the mesh's 2 devices"):
        asked_mesh(2, 1, runs=3, shares=1, devices=jax.devices()[:1] * 2)


def test_a_gru_in_two_halves_is_flax_s():
    cell, h, x = linen.GRUCell(4), jnp.full((2, 4), 0.5), jnp.ones((2, 3))
    params = cell.init(jax.random.key(0), h, x)
    after, _ = gru.Step(4).apply(params, h, gru.InputProducts(4).apply(params, x))
    np.testing.assert_allclose(after, cell.apply(params, h, x)[0], rtol=1e-6)
