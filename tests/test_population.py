"""Population-based training: the gather by hand, one member as plain training, resumed to the bit, lineage."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    SettingError,
    a2c,
    environments,
    hyperparameters,
    make_agent,
    make_trainer,
    population,
    sweeps,
    with_hyperparameters,
)
from pgjax.population import Evolution, evolved, exploit, explore, last_score, sources
from pgjax.runs.record import checkpoints
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.runs.settings.ranges import FROM_ONE, RANGES, evolution

HOW = Evolution((("learning_rate", 1e-4, 1e-1), ("discount", 1e-3, 1e-1)), from_one=("discount",), share=0.5)
KEY = jax.random.key(1 << 31)


@pytest.fixture(scope="module")
def problem():
    """Catch with A2C, streams and a scale of rewards: every part of a state is there."""
    environment, recipe = environments.make("Catch-bsuite"), a2c()
    agent = make_agent(environment, hidden=(4,), critic=recipe.config.critic)
    config = replace(recipe.config, num_envs=4, num_steps=9, normalise_rewards=True)
    return make_trainer(environment, agent, config), recipe.algorithm


@pytest.fixture(scope="module")
def trained(problem):
    """Four members after three exploit steps, and the metrics of all updates."""
    trainer, algorithm = problem
    runs, pieces = population.start(trainer, algorithm, HOW, seeds=4), []
    for now, metrics in population.chunks(trainer, runs, 36 * 12, 4, how=HOW, key=KEY):
        runs, pieces = now, [*pieces, metrics]
    return runs, pieces


def data(tree):
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in tree]


def leaves(tree):
    return data(jax.tree.leaves(tree))


def same(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_is_exploited_is_what_a_copy_by_hand_gives(trained):
    """All but key, environments in flight and counters is the source's."""
    state = trained[0].state
    source = np.array([2, 1, 2, 0])
    taken = exploit(state, jnp.asarray(source))
    own = {"key", "rollout_state", "update", "env_steps", "skipped"}
    for name in state._fields:
        if name == "reward_scale":
            same(taken.reward_scale.running, state.reward_scale.running)
            for a, b in zip(leaves(taken.reward_scale.moments), leaves(state.reward_scale.moments), strict=True):
                np.testing.assert_array_equal(a, np.stack([b[i] for i in source]))
            continue
        for a, b in zip(leaves(getattr(taken, name)), leaves(getattr(state, name)), strict=True):
            np.testing.assert_array_equal(a, b if name in own else np.stack([b[i] for i in source]), err_msg=name)


@pytest.mark.costly
def test_members_that_share_parameters_have_keys_of_their_own(trained):
    runs, _ = trained
    assert (runs.settings["parent"] != runs.seeds).any() or (np.diff(data([runs.state.key])[0], axis=0) != 0).any()
    taken = exploit(runs.state, jnp.zeros(4, int))
    assert len(np.unique(data([taken.key])[0], axis=0)) == 4
    assert all((x == x[:1]).all() for x in leaves(taken.params))


@pytest.mark.costly
def test_who_goes_on_from_whom():
    """The worst quarter from the best one, each of these once; not where it is no better, or must not be replaced."""
    score = jnp.array([5.0, 1.0, 8.0, 3.0, 2.0, 7.0, 6.0, 4.0])
    every = jnp.ones(8, bool)
    dealt = set()
    for seed in range(8):
        found = sources(jax.random.key(seed), score, every).tolist()
        assert [found[i] for i in (0, 2, 3, 5, 6, 7)] == [0, 2, 3, 5, 6, 7]
        assert {found[1], found[4]} == {2, 5}
        dealt.add(found[1])
    assert dealt == {2, 5}
    assert sources(KEY, score, every.at[1].set(False)).tolist()[1] == 1
    assert sources(KEY, jnp.ones(8), every).tolist() == list(range(8))
    assert sources(KEY, score, every, share=0.0).tolist() == list(range(8))
    assert sources(KEY, jnp.array([1.0]), jnp.ones(1, bool)).tolist() == [0]
    assert sources(KEY, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3, bool)).tolist() == [2, 1, 2]
    assert sources(KEY, jnp.array([-jnp.inf, 2.0]), jnp.ones(2, bool)).tolist() == [1, 1]


def test_hyperparameters_move_by_a_factor_and_stay_in_their_range(problem):
    """Of the members that moved alone, of several places at once, of the discount its distance from 1."""
    algorithm = jax.tree.map(lambda x: jnp.full(400, x, jnp.float32), problem[1])
    how = replace(HOW, ranges=(("learning_rate", 2.9e-3, 1.0), ("discount", 1e-3, 1e-1), ("gae_lambda", 1e-3, 0.5)))
    start = with_hyperparameters(algorithm, {"learning_rate": jnp.full(400, 3e-3), "gae_lambda": jnp.full(400, 0.9)})
    moved = jnp.arange(400) % 2 == 0
    found = hyperparameters(explore(replace(how, from_one=("discount", "gae_lambda")), KEY, start, moved))
    before = hyperparameters(start)
    rate, discount = np.asarray(found["learning_rate"]), np.asarray(found["discount"])
    np.testing.assert_allclose(np.unique(rate[::2]), [2.9e-3, 3.75e-3], rtol=1e-6)
    np.testing.assert_allclose(np.unique(np.round(1 - discount[::2], 6)), [0.008, 0.0125], atol=2e-6)
    assert (rate[1::2] == np.asarray(before["learning_rate"])[1::2]).all()
    assert 60 < (rate[::2] > 3e-3).sum() < 140 and 20 < ((rate > 3e-3) & (discount < 0.99))[::2].sum() < 80
    (one, other) = (np.asarray(found[name]) for name in found if name.endswith("gae_lambda"))
    assert (one == other).all() and (one[::2] != np.float32(0.9)).all()
    untouched = {name for name in before if name.split(".")[-1] not in ("learning_rate", "discount", "gae_lambda")}
    assert all((np.asarray(found[name]) == np.asarray(before[name])).all() for name in untouched)


@pytest.mark.slow
def test_one_member_that_does_not_explore_is_plain_training_to_the_bit(problem):
    trainer, algorithm = problem
    how = replace(HOW, factors=(1.0,))
    runs = population.start(trainer, algorithm, how, seeds=1)
    over = {name: runs.settings[name] for name in ("learning_rate", "discount")}
    plain = sweeps.start(trainer, algorithm, over=over)
    ours = population.chunks(trainer, runs, 36 * 8, 4, how=how, key=KEY)
    for (one, metrics), (other, expected) in zip(ours, sweeps.chunks(trainer, plain, 36 * 8, 4), strict=True):
        for name in expected:
            np.testing.assert_array_equal(metrics[name], expected[name], err_msg=name)
        same((one.algorithm, one.state), (other.algorithm, other.state))


@pytest.mark.costly
def test_a_population_that_is_saved_and_restored_goes_on_to_the_bit(problem, trained, tmp_path):
    trainer, algorithm = problem
    runs = population.start(trainer, algorithm, HOW, seeds=4)
    runs, _ = next(population.chunks(trainer, runs, 36 * 12, 4, how=HOW, key=KEY))
    tree = {name: value for name, value in runs._asdict().items() if name != "mesh"}
    checkpoints.save(tmp_path, 4, tree, {})
    fresh = population.start(trainer, algorithm, HOW, seeds=4)
    like = {name: value for name, value in fresh._asdict().items() if name != "mesh"}
    resumed = fresh._replace(**checkpoints.newest(tmp_path, print).restore(like))
    pieces = []
    for now, metrics in population.chunks(trainer, resumed, 36 * 12, 4, how=HOW, key=KEY, donate=True):
        resumed, pieces = now, [*pieces, metrics]
    whole, expected = trained
    same((resumed.algorithm, resumed.state), (whole.algorithm, whole.state))
    for one, other in zip(pieces, expected[1:], strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.costly
def test_the_lineage_explains_every_number(trained):
    """From a member's takeover on, until its next one, it trains with the numbers that the table says."""
    runs, pieces = trained
    metrics = sweeps.join(pieces)
    columns, rows = population.lineage(metrics, HOW)
    assert columns == ("update", "seed", "copied_from", "learning_rate", "discount")
    assert [row[:3] for row in rows[:4]] == [(0, i, i) for i in range(4)] and len(rows) > 4
    assert all(update in (4, 8) and seed != copied for update, seed, copied, *_ in rows[4:])
    for update, _, copied, rate, _ in rows[4:]:
        ratio = rate / metrics["learning_rate"][copied, update - 1]
        assert any(np.isclose(ratio, factor, rtol=1e-5) for factor in HOW.factors) or rate in (1e-4, 1e-1)
    for seed in range(4):
        numbers = np.full(12, np.nan)
        for update, _, _, rate, _ in (row for row in rows if row[1] == seed):
            numbers[update:] = rate
        np.testing.assert_array_equal(metrics["learning_rate"][seed], numbers)
    np.testing.assert_array_equal(runs.settings["learning_rate"], hyperparameters(runs.algorithm)["learning_rate"])


@pytest.mark.costly
def test_nobody_is_replaced_who_does_not_train_any_more(trained):
    runs, pieces = trained
    assert (runs.settings["parent"] == runs.seeds).all()  # after the last update
    score = last_score(pieces[-1], jnp.array([False, True, False, False]))
    assert score[1] == -jnp.inf and np.isfinite(np.asarray(score)[[0, 2, 3]]).all()
    _, _, source = evolved(HOW, KEY, runs.algorithm, runs.state, score, may=jnp.zeros(4, bool))
    assert source.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ranges": (("learning_rate", 0.0, 1.0),)}, "learning_rate"),
        ({"ranges": (("learning_rate", 0.2, 0.1),)}, "learning_rate"),
        ({"ranges": (("environment.length", 0.1, 0.2),)}, "environment.length"),
        ({"share": 0.6}, "share"),
        ({"factors": ()}, "factors"),
        ({"factors": (0.0,)}, "factors"),
    ],
)
def test_what_is_no_evolution_is_refused(change, field):
    with pytest.raises(SettingError, match=f"^{field}: "):
        replace(HOW, **change)


@pytest.mark.costly
def test_settings_and_seeds_are_paired_one_to_one(problem):
    trainer, algorithm = problem
    over = [{"learning_rate": 0.1}, {"learning_rate": 0.2}]
    runs = sweeps.start(trainer, algorithm, seeds=[5, 3], over=over, paired=True)
    assert runs.seeds.tolist() == [5, 3] and runs.settings["learning_rate"].tolist() == [0.1, 0.2]
    with pytest.raises(SettingError, match="^over: 2 settings cannot be paired with 3 seeds"):
        sweeps.start(trainer, algorithm, seeds=3, over=over, paired=True)


@pytest.mark.slow
def test_runs_that_are_taken_go_on_as_they_would_have(problem):
    """The same numbers, if not the same bits, however many devices they are spread over now."""
    trainer, algorithm = problem
    runs, _ = sweeps.advance(trainer, sweeps.start(trainer, algorithm, seeds=4), 36 * 4, 2)
    some = sweeps.take(trainer, runs, [2, 0, 3])
    assert some.seeds.tolist() == [2, 0, 3] and some.mesh.shape["seed"] == 1
    whole, _ = sweeps.advance(trainer, runs, 36 * 4, 2)
    some, _ = sweeps.advance(trainer, some, 36 * 4, 2)
    for a, b in zip(leaves(some.state), leaves(whole.state), strict=True):
        np.testing.assert_allclose(a, b[[2, 0, 3]], rtol=1e-5, atol=1e-6)


def test_what_evolves_by_default_is_what_a_search_would_try():
    settings = Settings(algorithm="a2c", population=4)
    how = evolution(settings, build(settings))
    assert {name for name, *_ in how.ranges} >= {"learning_rate", "discount", "gae_lambda"} and how.from_one == FROM_ONE
    assert all(RANGES[name] == (low, high) for name, low, high in how.ranges)
    with pytest.raises(SettingError, match="^evolve: 'clip' has no search range here"):
        evolution(replace(settings, evolve=("clip",)), build(settings))
