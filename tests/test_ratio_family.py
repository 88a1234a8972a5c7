"""The ratio family: facts against closed forms by enumeration, parts by identity, the reference policy in training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
import ratio_family
from jax.tree_util import Partial

from pgjax import (
    ALGORITHMS,
    SettingError,
    clipped_ratio,
    collect,
    environments,
    learn,
    make_agent,
    make_signals,
    make_trainer,
    ratio,
    reinforce,
    reward_to_go,
    score,
    sweeps,
    total_return,
)
from pgjax.estimators.clipping import clipped_between, clipped_weight, dual_clipped_ratio
from pgjax.estimators.delight import delightful
from pgjax.estimators.exponential_weights import better_half, exponential
from pgjax.estimators.groups import dynamically_sampled, group_standardised
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.sequence_ratios import clipped_sequence_ratio, clipped_sequence_ratio_per_step, log_mean_ratio
from pgjax.methods.reference import REFERENCE_KLS, with_reference
from pgjax.runs.record import checkpoints
from pgjax.runs.settings.build import build
from pgjax.runs.settings.flags import Settings
from pgjax.training.batch import hold

# Facts

UNLIKE = {  # what must not look like nothing: a part, a word of its lines, and what their numbers must exceed
    ratio_family.group_std: ("G = 4", 1.5),
    ratio_family.clipping: ("1 clipped", 0.1),
    ratio_family.kl_losses: ("mean gradient of k3‖", 0.1),
}


@pytest.mark.few(2, costly=4)
@pytest.mark.parametrize("part", ratio_family.PARTS, ids=lambda part: part.__name__)
def test_every_fact_equals_its_closed_form(x64, part):
    found = list(part())
    closed = [fact for fact in found if fact.closed_form is not None]
    assert closed
    for fact in closed:
        np.testing.assert_allclose(fact.found, fact.closed_form, atol=1e-12, err_msg=fact.what)
    word, least = UNLIKE.get(part, ("", -np.inf))
    assert all(fact.found > least for fact in found if word in fact.what)


@pytest.mark.costly
def test_what_the_parts_change_is_the_direction(x64):
    own, mean, constant = (f.found for f in ratio_family.own_lengths() if "cosine" in f.what)
    assert own < mean - 1e-4 < constant - 2e-4
    k1, *others = (f.found for f in ratio_family.kl_rewards())
    assert k1 < 1e-12 and min(others) > 0.1
    weights = [f.found for f in ratio_family.global_std() if "global" in f.what]
    assert weights[0] > 1.05 * weights[1]


@pytest.mark.costly
def test_the_estimators_of_the_recipes(x64):
    """Dr. GRPO on-policy is a scale, whatever lengths do; at a distance nothing is; GRPO divides by two there too."""
    for lengths in ratio_family.PROBLEMS:
        here, away = (ratio_family.estimator_row("dr_grpo", lengths, d) for d in (0.0, 0.5))
        np.testing.assert_allclose((here.scale, here.cosine), (0.25, 1.0), atol=1e-12)
        assert here.relative_bias < away.relative_bias and away.cosine < 1 - 1e-4
    sampler = ratio_family.estimator_row(ratio_family.SAMPLER_IS, "fixed", 0.0)
    here = ratio_family.estimator_row("dr_grpo", "fixed", 0.0)
    np.testing.assert_allclose(sampler[3:], here[3:], atol=1e-12)


# Parts, by identity

RNG = np.random.default_rng(0)
T, N = 3, 6
MASK = (np.arange(T)[:, None] < np.array([3, 1, 2, 3, 2, 1])).astype(float)
ENDED = MASK - np.pad(MASK[1:], ((0, 1), (0, 0)))
LOG_RATIO, PSI = (RNG.normal(size=(T, N)) * MASK for _ in range(2))
GROUP = np.array([0, 0, 0, 1, 1, 2])  # of three, of two, and one alone


def signals(group=GROUP, **given):
    reward = RNG.normal(size=(T, N)) if "reward" not in given else given.pop("reward")
    return make_signals(reward, mask=MASK, terminated=ENDED, group=group, log_ratio=LOG_RATIO, **given)


def slope(surrogate, psi=PSI):
    continues = MASK - ENDED
    return jax.grad(lambda x: jnp.sum(MASK * surrogate(x, jnp.asarray(psi), continues)))(jnp.asarray(LOG_RATIO))


INF = float("inf")
SAME = {  # one surrogate and another with the same gradient
    "equal ranges": (Partial(clipped_between, clip_low=0.2, clip_high=0.2), clipped_ratio),
    "no range": (Partial(clipped_between, clip_low=INF, clip_high=INF), ratio),
    "no dual clip": (Partial(dual_clipped_ratio, dual_clip=INF), clipped_ratio),
    "no clipped weight": (Partial(clipped_weight, clip_low=INF, clip_high=INF), ratio),
    "weight clipped to one": (Partial(clipped_weight, clip_low=0.0, clip_high=0.0), score),
}


@pytest.mark.parametrize("name", SAME)
def test_surrogates_at_the_ends_of_their_ranges(x64, name):
    np.testing.assert_allclose(*map(slope, SAME[name]), atol=1e-12)


def test_the_dual_clip_acts_on_bad_actions_with_large_ratios_alone(x64):
    plain, dual = slope(clipped_ratio), slope(Partial(dual_clipped_ratio, dual_clip=1.5))
    acts = (PSI < 0) & (np.exp(LOG_RATIO) > 1.5)
    np.testing.assert_array_equal(plain != dual, acts)
    assert acts.any() and not dual[acts].any()


@pytest.mark.parametrize("ranges", [(0.05, 0.5), (0.5, 0.05), (INF, INF)])
def test_gspo_in_both_forms_is_its_definition(x64, ranges):
    """One credit per trajectory: s A/|o| Σ_t ∇log π_t, nothing where clipped; in plain loops."""
    psi = MASK * PSI[:1] / MASK.sum(0)
    numbers = dict(zip(("clip_low", "clip_high"), ranges))
    one, other = (slope(Partial(f, **numbers), psi) for f in (clipped_sequence_ratio, clipped_sequence_ratio_per_step))
    wanted = np.zeros((T, N))
    for n in range(N):
        length = int(MASK[:, n].sum())
        s = np.exp(LOG_RATIO[:length, n].mean())
        clipped = (PSI[0, n] > 0 and s > 1 + ranges[1]) or (PSI[0, n] < 0 and s < 1 - ranges[0])
        wanted[:length, n] = 0.0 if clipped else s * PSI[0, n] / length
    np.testing.assert_allclose(one, wanted, atol=1e-12)
    np.testing.assert_allclose(other, wanted, atol=1e-12)
    assert (wanted == 0).sum() > (MASK == 0).sum() or ranges[0] == INF


def test_of_one_step_the_sequence_ratio_is_the_ratio(x64):
    np.testing.assert_allclose(log_mean_ratio(LOG_RATIO, np.zeros((T, N))), LOG_RATIO, atol=1e-12)


def test_where_lengths_vary_the_mean_of_the_sequence_ratio_may_exceed_one(x64):
    """μ = (1/4, 3/4), π = (1/2, 1/2); the first action ends the episode, the other leads to a step of ratio 1."""
    ratios = jnp.array([[2.0, 2 / 3], [1.0, 1.0]])
    s = jnp.exp(log_mean_ratio(jnp.log(ratios), jnp.array([[0.0, 1.0], [0.0, 0.0]])))[0]
    mean = float(s @ jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(mean, 0.5 + 0.75 * np.sqrt(2 / 3), atol=1e-12)
    assert mean > 1.1
    one_length = jnp.exp(log_mean_ratio(jnp.log(ratios), jnp.array([[1.0, 1.0], [0.0, 0.0]])))[0]
    np.testing.assert_allclose(one_length, np.sqrt([2.0, 2 / 3]), atol=1e-12)
    assert float(one_length @ jnp.array([0.25, 0.75])) < 1  # T = 2 for both


@pytest.mark.costly
def test_groups_of_any_size(x64):
    one = signals()
    found, total = group_standardised(one), np.asarray(total_return(one))[0]
    for members in ([0, 1, 2], [3, 4]):
        own = total[members]
        np.testing.assert_allclose(found[0, members], (own - own.mean()) / (own.std() + 1e-8), atol=1e-12)
    assert not np.any(found[:, 5]), "alone, nobody judges it"
    whole = signals(group=None, reward=one.reward)
    np.testing.assert_allclose(
        group_standardised(whole), group_standardised(whole._replace(group=jnp.zeros((T, N), int))), atol=1e-12
    )


def test_lengths(x64):
    one, length = signals(), MASK.sum(0)
    means = np.array([length[g == GROUP].mean() for g in GROUP])
    for divisor, wanted in ((own_length, length), (mean_length, means), (longest_length, T)):
        np.testing.assert_allclose(divided(total_return, divisor)(one), total_return(one) / wanted, atol=1e-12)
    np.testing.assert_allclose(mean_length(one._replace(group=None)), length.mean())


def test_groups_of_equal_returns_are_left_out(x64):
    reward = np.where(np.arange(T)[:, None] == 0, np.array([1.0, 0.0, 1.0, 1.0, 1.0, 5.0]), 0.0)
    one = signals(reward=reward)
    found = dynamically_sampled(total_return)(one)
    np.testing.assert_allclose(found, total_return(one) * np.array([2.0, 2.0, 2.0, 0.0, 0.0, 0.0]))
    none = signals(reward=np.zeros((T, N)))
    np.testing.assert_array_equal(dynamically_sampled(group_standardised)(none), 0.0)


def test_v_mpo_weighs_the_better_half_as_far_from_equal_as_its_bound(x64):
    one, steps = signals(), int(MASK.sum())
    advantage = np.asarray(reward_to_go(one))
    for bound in (0.01, 0.1, 0.5):
        psi = np.asarray(better_half(reward_to_go, bound)(one))
        share = psi[psi > 0] / steps
        np.testing.assert_allclose(share.sum(), 1.0, atol=1e-12)
        np.testing.assert_allclose(np.sum(share * np.log(share * share.size)), bound, atol=1e-10)
        assert share.size == steps // 2 and advantage[psi > 0].min() >= advantage[(psi == 0) & (MASK > 0)].max()
        slope = np.diff(np.log(share)) / np.diff(advantage[psi > 0])  # a softmax of A/η
        np.testing.assert_allclose(slope, slope[0], rtol=1e-8)


def test_exponential_weights_and_gates_at_high_temperature(x64):
    one, eta = signals(behaviour_log_prob=-np.ones((T, N))), 1e6
    np.testing.assert_allclose((exponential(reward_to_go, eta)(one) - 1) * eta, reward_to_go(one), atol=1e-4)
    np.testing.assert_allclose(2 * delightful(reward_to_go, eta)(one), reward_to_go(one), atol=1e-4)
    with pytest.raises(SettingError, match="^behaviour_log_prob: None is missing"):
        delightful(reward_to_go)(signals())


# The reference policy and the sampler, in training


def small(name="reinforce", environment=None, reference=None, coefficient=0.1, **changes):
    environment = probes.five() if environment is None else environment
    recipe = ALGORITHMS[name]()
    if reference:
        recipe = with_reference(recipe, reference, coefficient)
    config = replace(recipe.config, **{"num_envs": 16, "num_steps": 4} | changes)
    agent = make_agent(environment, hidden=(), critic=config.critic)
    return make_trainer(environment, agent, config), recipe.algorithm


IN_REWARDS = ("reinforce", "grpo", "ppo", "vtrace", "doubly_robust", "trpo", "storm")  # a penalty there alters credit
PLACES = [(name, "k3_loss") for name in ALGORITHMS]
PLACES += [pytest.param(name, "k1_reward", marks=() if name in IN_REWARDS else pytest.mark.slow) for name in ALGORITHMS]


@pytest.mark.few(10)
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_every_method_takes_a_reference_policy(name, place):
    """Traced alone. What the update is, is in the table of updates."""
    trainer, algorithm = small(name, reference=place)
    state = jax.eval_shape(trainer.init, algorithm, jax.random.key(0))
    after, metrics = jax.eval_shape(trainer.update, algorithm, state)
    assert jax.tree.structure(after.reference) == jax.tree.structure(state.params) and "reference_kl" in metrics


@pytest.mark.costly
def test_the_reference_is_what_training_starts_from_in_every_run_and_survives_a_checkpoint(tmp_path):
    trainer, algorithm = small(reference="k2_loss", environment=environments.make("Catch-bsuite"))
    runs = sweeps.start(trainer, algorithm, seeds=2, over={"reference_coefficient": [0.0, 100.0]})
    before = jax.tree.map(np.asarray, runs.state.params)
    assert trainer.agent.init is not None and not np.array_equal(*np.asarray(jax.tree.leaves(before)[1])[:2])
    runs, metrics = sweeps.advance(trainer, runs, 1 << 30, 20, donate=True)
    jax.tree.map(np.testing.assert_array_equal, runs.state.reference, before)
    free, held = metrics["reference_kl"][:2, -1], metrics["reference_kl"][2:, -1]
    assert (held < 0.2 * free).all() and (held > 0).all()
    checkpoints.save(tmp_path, 1, runs.state, {})
    kept = checkpoints.read(tmp_path / "00000001").restore(runs.state)
    jax.tree.map(np.testing.assert_array_equal, kept.reference, runs.state.reference)


@pytest.mark.costly
def test_another_reference_may_be_given():
    trainer, algorithm = small(reference="k2_loss", coefficient=1.0)
    state = trainer.init(algorithm, jax.random.key(0))
    other = jax.tree.map(lambda x: x + jnp.linspace(-1.0, 1.0, x.size).reshape(x.shape), state.params)
    update = jax.jit(trainer.update)
    distances = [float(update(algorithm, s)[1]["reference_kl"]) for s in (state, state._replace(reference=other))]
    assert distances[0] < 1e-6 < 1e-3 < distances[1]


@pytest.mark.costly
def test_the_sampler_is_the_learner_up_to_rounding_in_rollouts_of_one_s_own_and_not_in_others():
    """A batch with other recorded probabilities: as if C = 1 cut every weight to what was recorded."""
    corrected, algorithm = small("sampler_is", epochs=1)
    sgd = Partial(optax.sgd, learning_rate=1.0)
    algorithm = algorithm._replace(optimizer=sgd, max_mismatch=2.0)
    state = corrected.init(algorithm, jax.random.key(0))
    update = jax.jit(corrected.update)
    found = [update(a, state)[0].params["policy"] for a in (algorithm, algorithm._replace(max_mismatch=None))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)

    @jax.jit
    def halved(state):  # the sampler says twice the probability
        rows = collect(corrected, algorithm, state).batch.transition
        rows = rows._replace(log_prob=rows.log_prob + jnp.log(2.0))
        return learn(corrected, algorithm, state, hold(corrected, algorithm, state, rows))[0].params["policy"]

    after = halved(state)
    half, whole = (jax.tree.map(jnp.subtract, x, state.params["policy"]) for x in (after, found[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, atol=1e-6), half, whole)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(whole)) > 1e-3


REFUSED = {
    "an unknown estimate": (lambda: with_reference(reinforce(), "k4_loss", 0.1), "reference_kl: 'k4_loss' is none of"),
    "no coefficient": (lambda: build(Settings(reference_kl="k3_loss")), "reference_kl: 'k3_loss' needs a weight"),
    "slices of a sampler": (
        lambda: small("sampler_is", accumulate=2)[0].init(ALGORITHMS["sampler_is"]().algorithm, jax.random.key(0)),
        "accumulate: 2 simulates the batch with the learner itself",
    ),
    "a dual clip below one": (
        lambda: build(Settings(algorithm="dual_clip", dual_clip=0.5)),
        "dual_clip: 0.5 must be at least 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_by_name(name):
    call, line = REFUSED[name]
    with pytest.raises(SettingError, match=f"^{line}"):
        call()


def test_a_recurrent_policy_in_a_stream_has_no_reference():
    recipe = with_reference(ALGORITHMS["a2c"](), "k3_loss", 0.1)
    environment = probes.five()
    agent = make_agent(environment, hidden=(4,), critic="state", memory="gru")
    trainer = make_trainer(environment, agent, recipe.config)
    with pytest.raises(SettingError, match="^memory: 'in a stream' cannot be combined with a reference policy"):
        trainer.init(recipe.algorithm, jax.random.key(0))


def test_every_name_of_a_reference_kl_is_a_place_and_an_estimate():
    assert set(REFERENCE_KLS) == {f"{k}_{place}" for k in ("k1", "k2", "k3") for place in ("loss", "reward")}
    for name in REFERENCE_KLS:
        algorithm = with_reference(ALGORITHMS["grpo"](), name, 0.1).algorithm
        assert (algorithm.reference_loss is None) == name.endswith("reward") != (algorithm.reference_reward is None)
