"""What enters is checked where it enters: environments, their spaces, networks, masks; each refusal is one line."""

import re
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import (
    Categorical,
    Config,
    Environment,
    SettingError,
    from_networks,
    make_agent,
    make_trainer,
    normalise_observations,
    rollout,
)
from pgjax.environments import base
from pgjax.environments.base import check_environment
from pgjax.policies.normalisation import no_reward_scale, scale_rewards
from pgjax.policies.observations import default_features
from pgjax.spaces import Box, Discrete, MultiBinary, MultiDiscrete

SEEN = jax.ShapeDtypeStruct((1,), jnp.float32)
KEY = jax.random.key(0)


def walk(reward=1.0, terminated=None, truncated=False, **changed):
    """Five steps, one point each; or what else is given."""

    def step(key, t, action):
        ended = t + 1 >= 5
        return jnp.ones(1), t + 1, reward, ended if terminated is None else terminated(ended), truncated

    return Environment("walk", lambda key: (jnp.ones(1), jnp.int32(0)), step, SEEN, None, Discrete(2), 5)._replace(
        **changed
    )


def giving(*, at_reset=None, at_step=None, observation=SEEN):
    """The walk, whose functions give something else: (observation, state) or all five."""
    plain = walk()
    return plain._replace(
        reset=plain.reset if at_reset is None else lambda key: at_reset,
        step=plain.step if at_step is None else lambda key, t, action: at_step(t),
        observation=observation,
    )


@contextmanager
def refused(message):
    """In one line, whose beginning this is."""
    with pytest.raises(SettingError) as error:
        yield
    assert re.match(message, str(error.value)) and "\n" not in str(error.value), str(error.value)


# --- rewards, flags


@pytest.mark.parametrize(
    "reward", [1.0, 1, True, np.int8(1), np.float64(1), jnp.float16(1), jnp.uint8(1), jnp.bool_(1)]
)
@pytest.mark.parametrize("flag", [jnp.bool_, jnp.int32, bool])
def test_rewards_are_floats_and_flags_bools_whatever_the_environment_counts_in(reward, flag):
    environment = walk(reward, lambda ended: ended if flag is bool else flag(ended), flag(False))
    got = base.step(environment, KEY, jnp.int32(4), 0)[2:]
    assert [(x.shape, x.dtype) for x in got] == [((), jnp.float32), ((), bool), ((), bool)]
    assert [x.item() for x in got] == [1.0, True, False]


def test_rewards_are_of_the_default_float_type(x64):
    assert base.step(walk(jnp.float32(1)), KEY, jnp.int32(0), 0)[2].dtype == jnp.float64


@pytest.mark.costly
def test_returns_and_spreads_do_not_depend_on_the_type_that_rewards_are_counted_in():
    def observed(kind):
        environment, keys = walk(kind(1)), KEY[None]
        start = rollout.start_stream(environment, keys)
        _, rows, statistics = rollout.stream(environment, lambda x: Categorical(jnp.zeros(2)), start, keys, 12)
        moments = scale_rewards(no_reward_scale(1), rows, 1.0, streaming=True)[0].moments
        return statistics.return_sum / statistics.episodes, moments.mean, moments.variance

    expected = np.array([1, 2, 3, 4, 5] * 2 + [1, 2])  # each step's return so far
    for kind in (jnp.int32, jnp.bool_):
        np.testing.assert_allclose(observed(kind), [5.0, expected.mean(), expected.var()], rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(reward=jnp.ones(1)), r"gives a reward float32\[1\] in step; needs one real number, shape \(\)$"),
        (dict(reward=jnp.ones((2, 1), int)), r"gives a reward int32\[2,1\] in step; needs one real number"),
        (dict(reward=1j), r"gives a reward complex64\[\] in step; needs one real number"),
        (dict(reward=KEY), r"gives a reward key<fry>\[\] in step; needs one real number"),
        (dict(reward="one"), r"gives a reward str in step; needs one real number"),
        (dict(terminated=lambda e: e[None]), r"gives terminated bool\[1\] in step; needs one bool or whole number"),
        (dict(truncated=jnp.float32(0.5)), r"gives truncated float32\[\] in step; needs one bool or whole number"),
    ],
)
def test_rewards_and_flags_of_other_shapes_and_kinds_are_refused(changed, message):
    environment = walk(**changed)
    agent = make_agent(environment, hidden=(2,))
    for use in (
        lambda: make_trainer(environment, agent, Config()),
        lambda: rollout.episodes(environment, partial(agent.policy, agent.init(KEY)), KEY[None]),
    ):
        with refused(f"environment: 'walk' {message}"):
            use()


# --- observations, states, arity


class Pair(NamedTuple):
    left: Any
    right: Any


NESTED = {"a": (SEEN, jax.ShapeDtypeStruct((), jnp.int32)), "b": SEEN}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            giving(at_reset=(jnp.ones(2), 0)),
            r"gives observation float32\[2\] in reset; needs float32\[1\], as declared$",
        ),
        (giving(at_reset=(jnp.ones(1, int), 0)), r"gives observation int32\[1\] in reset; needs float32\[1\]"),
        (
            giving(at_step=lambda t: (jnp.ones(()), t, 1.0, False, False)),
            r"gives observation float32\[\] in step; needs float32\[1\], as declared$",
        ),
        (
            giving(at_reset=({"a": (jnp.ones(1), jnp.float32(1)), "b": jnp.ones(1)}, 0), observation=NESTED),
            r"gives observation\['a'\]\[1\] float32\[\] in reset; needs int32\[\]",
        ),
        (
            giving(at_reset=({"a": (jnp.ones(1), 1), "c": jnp.ones(1)}, 0), observation=NESTED),
            r"gives no observation\['b'\] in reset, but observation\['c'\]; needs observation\['a'\]\[0\], ",
        ),
        (
            giving(at_reset=({"a": [jnp.ones(1), 1], "b": jnp.ones(1)}, 0), observation=NESTED),
            r"gives observation as .* in reset; needs .*, as declared$",
        ),
        (giving(at_reset=("text", 0)), r"gives observation str in reset; needs an array$"),
        (
            giving(at_step=lambda t: (jnp.ones(1), t + 0.5, 1.0, False, False)),
            r"gives state float32\[\] in step; needs int32\[\], as before the step$",
        ),
        (
            giving(
                at_reset=(jnp.ones(1), Pair(0, jnp.ones(2))),
                at_step=lambda s: (*[jnp.ones(1), s._replace(right=jnp.ones(3))], 0, 0, 0),
            ),
            r"gives state\.right float32\[3\] in step; needs float32\[2\], as before the step$",
        ),
        (
            giving(at_step=lambda t: (jnp.ones(1), (t, t), 1.0, False, False)),
            r"gives no state in step, but state\[0\]; needs state, as before the step$",
        ),
        (giving(at_reset=jnp.ones(1)), r"gives float32\[1\] in reset; needs \(observation, state\)$"),
        (
            giving(at_step=lambda t: (jnp.ones(1), t, 1.0, False)),
            r"gives 4 values in step; needs \(observation, state, reward, terminated, truncated\)$",
        ),
        (walk(reset=lambda: None), r"has a reset with other arguments \(too many .*\); needs reset\(key\)$"),
        (walk(step=lambda key, state: None), r"has a step with other arguments .*; needs step\(key, state, action\)$"),
        (walk(step=None), r"has a step None that is not a function; needs step\(key, state, action\)$"),
        (
            giving(at_step=lambda t: (np.full(1, float(t)), t, 1.0, False, False)),
            r"has a step that JAX cannot trace; use jax\.numpy and jax\.lax in it$",
        ),
        (
            giving(at_step=lambda t: (jnp.ones(1), t if t > 3 else 0, 1.0, False, False)),
            r"has a step that JAX cannot trace; use jax\.numpy and jax\.lax in it$",
        ),
        (
            giving(at_step=lambda t: (np.array(t), t, 1.0, False, False)),
            r"has a step that JAX cannot trace; use jax\.numpy and jax\.lax in it$",
        ),
        (
            giving(at_step=lambda t: (jnp.array([1.0, 2.0])[range(5)[t]], t, 1.0, False, False)),
            r"has a step that JAX cannot trace; use jax\.numpy and jax\.lax in it$",
        ),
        (walk(observation=(1,)), r"declares observation\[0\] as 1; needs a shape and a dtype$"),
        (
            walk(action_space="up or down"),
            r"has an action space 'up or down'; needs .*Discrete, .* or Box, or a pytree of these$",
        ),
    ],
)
def test_functions_that_give_something_else_are_refused_saying_where(environment, message):
    with refused(f"environment: 'walk' {message}"):
        check_environment(environment)


@pytest.mark.parametrize("horizon", [None, 0, -1, 2.5, 5.0, "5", True, jnp.ones(2), np.inf])
def test_a_horizon_that_is_no_number_of_steps_is_refused_by_name(horizon):
    environment = walk(horizon=horizon)
    policy = partial(make_agent(walk(), hidden=(2,)).policy, None)
    with refused("horizon: .* of environment 'walk' must be a whole number of steps"):
        check_environment(environment)
    with refused("horizon: "):
        rollout.episodes(environment, policy, KEY[None])


def test_what_an_environment_may_give():
    """numpy integers as horizon, Python numbers, floats of another width, NaN, keys in the state, old-style keys."""
    check_environment(walk(horizon=np.int64(5)))
    loose = giving(
        at_reset=([np.float64("nan"), 3], {"key": jax.random.key(1), "x": 0.0, "n": 0}),
        at_step=lambda s: ([jnp.float16(2), 4], s | {"x": s["x"] + 1, "n": s["n"] * 2}, 1, 0, 1),
        observation=[jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)],
    )
    observation, state = base.reset(loose, jax.random.PRNGKey(0))
    check_environment(loose)
    after = base.step(loose, jax.random.PRNGKey(0), state, 0)
    assert [x.dtype for x in observation] == [x.dtype for x in after[0]] == [jnp.float32, jnp.int32]
    assert [(x.dtype, x.aval.weak_type) for x in jax.tree.leaves(state)] == [
        (x.dtype, x.aval.weak_type) for x in jax.tree.leaves(after[1])
    ]


def test_old_and_new_keys_start_the_same_episode():
    environment = walk(reset=lambda key: (jax.random.normal(key, (1,)), jnp.int32(0)))
    old, new = (base.reset(environment, make(7))[0] for make in (jax.random.PRNGKey, jax.random.key))
    np.testing.assert_array_equal(old, new)
    both = [
        rollout.start_stream(environment, jax.random.split(make(7), 3)) for make in (jax.random.PRNGKey, jax.random.key)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)


# --- action spaces


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box((1.0,), (1.0,), ()), r"has an empty action box, from 1.0 to 1.0; needs low < high"),
        (Box((np.nan,), (1.0,), ()), r"has an empty action box, from nan to 1.0; needs low < high"),
        (Box((np.inf,), (np.inf,), (1,)), r"has an empty action box, from inf to inf in dimension 0; needs low < high"),
        (Box((), (), (0,)), r"has an action box of shape \(0,\); needs at least one number"),
        (Box((0.0,), (1.0,), (2,)), r"has an action box of shape \(2,\) with 1 lower and 1 upper bounds$"),
        (Discrete(0), r"has Discrete\(n=0\) actions; needs a whole number of them"),
        ((Discrete(2), Discrete(0)), r"has Discrete\(n=0\) actions for action\[1\]; needs a whole number"),
        ({"a": 3}, r"has an action space 3 for action\['a'\]; needs pgjax.spaces.Discrete, MultiDiscrete, "),
        (MultiDiscrete((2, -1)), r"has MultiDiscrete\(nvec=\(2, -1\)\) actions; needs a whole number"),
        (MultiDiscrete((2, 1.5)), r"has MultiDiscrete\(nvec=\(2.0, 1.5\)\) actions; needs a whole number"),
        (
            MultiDiscrete(((2, 1), (1,))),
            r"has MultiDiscrete\(nvec=\(\(2, 1\), \(1,\)\)\); needs whole numbers in an array",
        ),
        (MultiBinary((0,)), r"has MultiBinary\(shape=\(0,\)\) actions; needs a whole number"),
        (None, r"has an action space None; needs"),
    ],
)
def test_action_spaces_that_no_policy_serves_are_refused(space, message):
    with refused(f"environment: 'walk' {message}"):
        make_agent(walk(action_space=space))


@pytest.mark.costly
@pytest.mark.parametrize(("shape", "policy"), [((), "gaussian"), ((2, 3), "gaussian"), ((2, 3), "squashed")])
def test_boxes_of_any_shape_get_actions_of_their_shape(shape, policy):
    """Recorded flat, given in the box's shape; the log-probability sums over the action's numbers and nothing else."""
    size = int(np.prod(shape))
    low, high = tuple(-1.0 - i for i in range(size)), (2.0,) * size
    given = {}

    def step(key, state, action):
        given["shape"] = action.shape
        return jnp.ones(1), state, jnp.sum(action * (1.0 + jnp.arange(size).reshape(shape))), True, False

    environment = walk(step=step, action_space=Box(low, high, shape), horizon=1)
    agent = make_agent(environment, policy=policy, hidden=(2,), critic="state")
    actor = rollout.actor(agent, agent.init(KEY))
    rows = rollout.episodes(environment, actor, jax.random.split(KEY, 4))
    assert given["shape"] == shape and rows.action.shape == (1, 4, size) and rows.log_prob.shape == (1, 4)
    distribution = actor.act((), rows.observation)[1]
    sent = distribution.to_environment(rows.action)
    np.testing.assert_allclose(rows.reward, (sent * (1.0 + np.arange(size))).sum(-1), rtol=1e-5)
    assert (sent >= np.array(low)).all() and (sent <= 2).all()


# --- categories and masks


def at(observation, **changed):
    return walk(observation=observation, **changed)


COUNT = jax.ShapeDtypeStruct((), jnp.int32)


def test_categories_are_one_hot_at_any_depth():
    shapes = {"a": (COUNT, SEEN), "b": {"c": COUNT, "several": jax.ShapeDtypeStruct((2,), jnp.int32)}}
    counts = {"a": (3, None), "b": {"c": None, "several": 4}}
    environment = at(shapes, num_categories=counts)
    x = {"a": (2, jnp.array([0.5])), "b": {"c": 7, "several": jnp.array([0, 3])}}
    expected = [0, 0, 1, 0.5, 7, 1, 0, 0, 0, 0, 0, 0, 1]
    features = default_features(environment)
    np.testing.assert_array_equal(features(x), expected)
    batch = jax.tree.map(lambda v: jnp.broadcast_to(jnp.asarray(v), (2, 3, *jnp.shape(v))), x)
    np.testing.assert_array_equal(features(batch), np.broadcast_to(expected, (2, 3, 13)))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (3, r"num_categories: 3 of 'walk' must have the structure of its observations"),
        ({"a": 3}, r"num_categories: .* must have the structure"),
        ({"a": 2.5, "b": None}, r"num_categories: 2.5 of 'walk' must be None or a whole number"),
        ({"a": 0, "b": None}, r"num_categories: 0 of 'walk' must be None or a whole number"),
    ],
)
def test_numbers_of_categories_that_do_not_fit_the_observation_are_refused(counts, message):
    with refused(message):
        make_agent(at({"a": COUNT, "b": SEEN}, num_categories=counts))


def test_normalised_observations_leave_categories_and_masks_alone():
    shapes = {"room": COUNT, "x": SEEN, "deep": {"action_mask": jax.ShapeDtypeStruct((2,), jnp.float32)}}
    counts = {"room": 3, "x": None, "deep": {"action_mask": None}}
    environment = at(shapes, num_categories=counts)
    seen = {}

    class Linear(NamedTuple):
        def init(self, key, x):
            return jnp.ones((x.shape[-1], 2))

        def apply(self, params, x):
            seen["x"] = x
            return x @ params

    agent = normalise_observations(from_networks(environment, Linear()), environment)
    x = {
        "room": jnp.array([[2, 1]]),
        "x": jnp.array([[[1.0], [3.0]]]),
        "deep": {"action_mask": jnp.array([[[1.0, 0.0], [1.0, 1.0]]])},
    }
    params = agent.observe(agent.init(KEY), x, jnp.ones((1, 2)))
    log_probs = agent.policy(params, x).log_probs
    np.testing.assert_allclose(seen["x"], [[[0, 0, 1, -1], [0, 1, 0, 1]]], atol=1e-6)
    np.testing.assert_allclose(np.exp(log_probs), [[[1, 0], [0.5, 0.5]]], atol=1e-6)
    with refused("normalise_observations: "):
        normalise_observations(agent, at({"a": COUNT}, num_categories={"a": 3}))


MASK = jax.ShapeDtypeStruct((2,), jnp.bool_)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("shapes", "place"),
    [
        ({"in": {"action_mask": MASK, "x": SEEN}, "y": SEEN}, lambda m: {"in": {"action_mask": m, "x": 1}, "y": 1}),
        (({"action_mask": MASK}, [SEEN]), lambda m: ({"action_mask": m}, [1])),
        ({"action_mask": MASK, "x": SEEN}, lambda m: {"action_mask": m, "x": 1}),
    ],
)
def test_a_mask_is_honoured_at_any_depth(shapes, place):
    environment = at(shapes)
    agent = make_agent(environment, hidden=(2,))
    observation = jax.tree.map(
        lambda x, s: jnp.broadcast_to(jnp.asarray(x, s.dtype), s.shape), place(jnp.array([False, True])), shapes
    )
    log_probs = agent.policy(agent.init(KEY), observation).log_probs
    np.testing.assert_allclose(np.exp(log_probs), [0, 1], atol=1e-6)
    flat = sum(int(np.prod(s.shape)) for s in jax.tree.leaves(shapes)) - 2
    assert default_features(environment)(observation).shape == (flat,)  # and no network sees it
    recurrent = make_agent(environment, memory="gru", hidden=(2,))
    params = recurrent.init(KEY)
    features = recurrent.memory.step(params, recurrent.memory.initial, observation)[1]
    np.testing.assert_allclose(np.exp(recurrent.policy(params, features).log_probs), [0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "changed", "message"),
    [
        (
            {"action_mask": jax.ShapeDtypeStruct((3,), bool), "x": SEEN},
            {},
            r"has an action mask observation\['action_mask'\] of shape \(3,\); needs one of shape \(2,\) for action$",
        ),
        (
            {"a": {"action_mask": jax.ShapeDtypeStruct((), bool)}, "x": SEEN},
            {},
            r"has an action mask observation\['a'\]\['action_mask'\] of shape \(\); needs one of shape \(2,\) for",
        ),
        ({"a": {"action_mask": MASK}, "action_mask": MASK}, {}, r"has an action mask .*, .*; needs one of shape"),
        ({"action_mask": {"left": MASK, "right": MASK}, "x": SEEN}, {}, r"has an action mask .*'left'.*; needs one of"),
        (
            {"action_mask": MASK, "x": SEEN},
            dict(action_space=Box((0.0,), (1.0,), (1,))),
            r"has an action mask .*, and action is not discrete$",
        ),
        (
            {"action_mask": {"go": MASK}, "x": SEEN},
            dict(action_space={"push": Discrete(2), "pull": Discrete(2)}),
            r"has an action mask observation\['action_mask'\]\['go'\] that matches none of its actions: "
            r"action\['pull'\], action\['push'\]; give a mask for each, in a pytree 'action_mask' of the actions' ",
        ),
        (
            {"action_mask": jax.ShapeDtypeStruct((3, 4), bool), "x": SEEN},
            dict(action_space=MultiDiscrete((3, 4))),
            r"has an action mask .* of shape \(3, 4\); needs one of shape \(2, 4\) or \(7,\) for action; if the "
            r"allowed values of one number depend on another, make the action one Discrete number$",
        ),
        ({"action_mask": MASK}, {}, r"has no observation for a network, only action masks$"),
    ],
)
def test_masks_that_cannot_be_honoured_are_refused(shapes, changed, message):
    with refused(f"environment: 'walk' {message}"):
        make_agent(at(shapes, **changed))


# --- networks


class Giving(NamedTuple):
    """A network without parameters: a function of the input."""

    function: Any

    def init(self, key, x):
        return ()

    def apply(self, params, x):
        return self.function(x)


def outputs(n):
    return Giving(lambda x: jnp.zeros((*x.shape[:-1], n)))


class Recurrent(NamedTuple):
    function: Any

    def init(self, key, carry, x):
        return ()

    def apply(self, params, carry, x):
        return self.function(carry, x)


def actor(network, **changed):
    return lambda: from_networks(walk(**changed), network)


def critic(network, kind):
    return lambda: from_networks(walk(), outputs(2), network, critic=kind)


def memory(function):
    return lambda: from_networks(walk(), outputs(2), memory=(Recurrent(function), np.zeros(3)))


CONTINUOUS = dict(action_space=Box((-1.0,) * 6, (1.0,) * 6, (2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (actor(outputs(3)), r"actor: 'Giving' returns float32\[3\] for one observation; needs floats \[2\]$"),
        (actor(outputs(3), **CONTINUOUS), r"actor: 'Giving' returns float32\[3\] .*; needs floats \[6\]$"),
        (
            actor(Giving(lambda x: jnp.zeros(2))),
            r"actor: .* returns float32\[2\] for a batch \[2, 3\] of observations; needs floats \[2, 3, 2\]$",
        ),
        (actor(Giving(lambda x: jnp.zeros((*x.shape[:-1], 2), int))), r"actor: 'Giving' returns int32\[2\]"),
        (actor(Giving(lambda x: (x, x))), r"actor: 'Giving' returns tuple for one observation"),
        (critic(outputs(2), "state"), r"critic: 'Giving' returns float32\[2\] .*; needs floats \[1\]$"),
        (critic(Giving(lambda x: x[..., 0]), "state"), r"critic: 'Giving' returns float32\[\] .*; needs floats \[1\]$"),
        (critic(outputs(1), "action"), r"critic: 'Giving' returns float32\[1\] .*; needs floats \[2\]$"),
        (memory(lambda c, x: (c[..., :1], x)), r"memory: .*\[1\].* is the carry after a step; must have .*\[3\]"),
        (memory(lambda c, x: ({"c": c}, x)), r"memory: .* is the carry after a step; must have the shapes of the init"),
        (memory(lambda c, x: (c > 0, x)), r"memory: .*bool.* is the carry after a step; must have .*float"),
        (memory(lambda c, x: x), r"memory: .* is returned by a step; needs \(carry, features\)$"),
    ],
)
def test_networks_that_give_something_else_are_refused_by_part(make, message):
    with refused(message):
        make()


def test_networks_that_fit_are_taken():
    from_networks(walk(), outputs(2), outputs(1), critic="state")
    from_networks(walk(), outputs(2), outputs(2), critic="action")
    agent = from_networks(walk(**CONTINUOUS), outputs(6), memory=(Recurrent(lambda c, x: (c + x, c)), jnp.full(1, 0.0)))
    carry = agent.memory.step(agent.init(KEY), agent.memory.initial, jnp.ones(1))[0]
    assert carry.dtype == agent.memory.initial.dtype and not agent.memory.initial.aval.weak_type
