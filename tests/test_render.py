"""Rendering: the episode that is shown is the rollout's, drawings show the state, what cannot work is refused."""

import io
import re
import runpy
from dataclasses import replace
from pathlib import Path

import gymnax
import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from parts import drawing
from parts.recording import Recording, record
from PIL import Image
from scripts import EXPERIMENTS, here

from pgjax import SettingError, environments, make_agent, normalise_observations, rollout
from pgjax.runs.record import checkpoints
from pgjax.runs.settings.build import build
from pgjax.runs.settings.config_file import recorded
from pgjax.runs.settings.flags import Settings
from pgjax.training.rollout import Visited

SCRIPT = EXPERIMENTS / "render.py"
SMALL = Settings(environment="Catch-bsuite", hidden=(8,), seeds=2)


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def write_run(path, settings=SMALL, number=1, score=0.0):
    """A run directory with a checkpoint of policies that have learned nothing."""
    agent = build(settings).agent
    params = jax.vmap(agent.init)(jax.random.split(jax.random.key(number), settings.seeds))
    path.mkdir(exist_ok=True)
    tree = {"seeds": np.arange(settings.seeds), "state": {"params": params}}
    checkpoints.save(path / "checkpoints", number, tree, {"settings": recorded(settings), "score": score})
    return path


def write_evaluation(path, greedy):
    rows = [f"{seed},900,9,{value}" for seed, value in enumerate(greedy)]
    (path / "evaluation.csv").write_text("\n".join(["seed,env_steps,sampled_return,greedy_return", *rows]) + "\n")


def agents():
    cart_pole, pendulum, breakout = map(environments.make, ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar"))
    plain, recurrent = make_agent(cart_pole, hidden=(8,)), make_agent(pendulum, hidden=(8,), memory="gru")
    yield pytest.param(cart_pole, plain, True, id="greedy")
    yield pytest.param(cart_pole, plain, False, id="sampled")
    yield pytest.param(pendulum, recurrent, True, id="recurrent")
    yield pytest.param(pendulum, normalise_observations(make_agent(pendulum), pendulum), True, id="normalised")
    yield pytest.param(breakout, make_agent(breakout, hidden=(8,)), False, id="image")


@pytest.mark.costly
@pytest.mark.few(2)
@pytest.mark.parametrize(("environment", "agent", "greedy"), list(agents()))
def test_the_recorded_episode_is_the_one_that_a_rollout_of_its_key_gives(environment, agent, greedy):
    params, key = agent.init(jax.random.key(0)), jax.random.key(7)
    if agent.observe:  # statistics that matter
        params = agent.observe(params, 2.0 + jax.random.normal(key, (9, 1, 3)), np.ones((9, 1)))
    recording = record(environment, agent, params, key, greedy=greedy)
    rows = rollout.episodes(environment, rollout.actor(agent, params), key[None], greedy=greedy)
    length = int(rows.mask.sum())
    assert len(recording.returns) == length + 1 and recording.returns[0] == 0
    np.testing.assert_allclose(recording.returns[-1], rows.reward.sum(), rtol=1e-5)
    observations = recording.places.observation
    np.testing.assert_allclose(observations[:-1], rows.observation[:length, 0], atol=1e-4)
    np.testing.assert_allclose(observations[-1], rows.next_observation[length - 1, 0], atol=1e-4)
    assert recording.terminated == bool(rows.terminated.any())


@pytest.mark.costly
def test_each_state_is_the_one_that_was_observed():
    environment = environments.make("CartPole-v1")
    agent = make_agent(environment)
    recording = record(environment, agent, agent.init(jax.random.key(0)), jax.random.key(1), greedy=False)
    state = recording.places.state
    np.testing.assert_array_equal(
        np.stack([state.x, state.x_dot, state.theta, state.theta_dot], axis=1), recording.places.observation
    )
    np.testing.assert_array_equal(state.time, np.arange(len(recording.returns)))


def picture(name, **state):
    """The picture of a reset's state with some of its values replaced."""
    place = start_of(name)
    return next(drawing.pictures(name, [place._replace(state=place.state.replace(**state))], [""]))


def start_of(name):
    observation, state = environments.make(name).reset(jax.random.key(0))
    return jax.tree.map(np.asarray, Visited(state, observation))


def middle(image, colour):
    """Centre (x to the right, y up) of the pixels of a colour; there must be some."""
    rows, columns = np.nonzero((image == np.round(255 * np.array(to_rgb(colour)))).all(axis=-1))
    assert rows.size >= 5
    return np.array([columns.mean(), -rows.mean()])


def test_bodies_lean_where_their_states_do():
    upright, right = (picture("CartPole-v1", x=0.0, theta=angle) for angle in (0.0, 0.5))
    rod, cart = middle(right, drawing.ORANGE), middle(right, drawing.BLUE)
    assert rod[0] > cart[0] + 5 and rod[1] > cart[1] + 5
    assert abs(middle(upright, drawing.ORANGE)[0] - middle(upright, drawing.BLUE)[0]) < 1
    assert middle(picture("CartPole-v1", x=1.0), drawing.BLUE)[0] > cart[0] + 20

    hanging = picture("Acrobot-v1", joint_angle1=0.0, joint_angle2=0.0)
    assert middle(hanging, drawing.GREEN)[1] > middle(hanging, drawing.BLUE)[1] > middle(hanging, drawing.ORANGE)[1]
    folded = picture("Acrobot-v1", joint_angle1=np.pi / 2, joint_angle2=np.pi / 2)
    np.testing.assert_array_less(middle(folded, drawing.BLUE) + 5, middle(folded, drawing.ORANGE))

    up, down, left = (middle(picture("Pendulum-v1", theta=x), drawing.ORANGE) for x in (0.0, np.pi, np.pi / 2))
    assert up[1] > left[1] + 20 > down[1] + 40 and left[0] < up[0] - 20

    for name in ("MountainCar-v0", "MountainCarContinuous-v0"):
        valley, wall = (middle(picture(name, position=x), drawing.BLUE) for x in (-0.5, -1.2))
        assert wall[0] < valley[0] - 20 and wall[1] > valley[1] + 20

    for far in (1.0, 3.0):  # it can leave the circle, and is seen all the same
        robot = picture("PointRobot-misc", pos=np.array([far, far]), goal=np.array([-1.0, 0.0]))
        np.testing.assert_array_less(middle(robot, drawing.GREEN) + 20, middle(robot, drawing.BLUE))


def test_cells_are_where_the_state_says():
    caught = picture("Catch-bsuite", ball_x=4, ball_y=0, paddle_x=0, paddle_y=9)
    ball, paddle = board(caught, drawing.RED), board(caught, drawing.BLUE)
    assert ball[0] > paddle[0] + 50 and ball[1] > paddle[1] + 100
    for name in ("FourRooms-misc", "MetaMaze-misc"):
        maze = picture(name, pos=np.array([1, 3]), goal=np.array([9, 2]))  # row, column
        agent, goal = board(maze, drawing.BLUE), board(maze, drawing.GREEN)
        assert agent[1] > goal[1] + 50 and 5 < agent[0] - goal[0] < 30


def board(image, colour):
    """`middle` on the board, without the legend to its right and the text above."""
    return middle(image[50:, : int(0.4 * image.shape[1])], colour)


IMAGES = [name for name in drawing.DRAWINGS if name.endswith("MinAtar") or name.startswith("Pong")]


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_in_an_image_has_its_channel_and_a_colour_of_its_own(name):
    kinds = drawing.DRAWINGS[name].keywords["kinds"]
    shape = gymnax.make(name)[0].obs_shape
    indices, colours = zip(*kinds.values(), strict=True)
    assert len(set(indices)) == len(set(colours)) == len(kinds) and max(indices) < shape[-1]
    empty = np.zeros(shape, np.float32)
    blank = next(drawing.pictures(name, [Visited(None, empty)], [""]))
    for index, colour in kinds.values():
        one = empty.copy()
        one[shape[0] // 2 : shape[0] // 2 + 4, 2:6, index] = 1
        shown = next(drawing.pictures(name, [Visited(None, one)], [""]))
        changed, counts = np.unique(shown[(shown != blank).any(axis=-1)], axis=0, return_counts=True)
        distances = [np.abs(changed[counts.argmax()] / 255 - to_rgb(c)).max() for c in colours]
        assert colours[np.argmin(distances)] == colour and min(distances) < 0.15


def test_the_start_of_breakout():
    image = next(drawing.pictures("Breakout-MinAtar", [start_of("Breakout-MinAtar")], [""]))
    bricks, paddle = board(image, drawing.BROWN), board(image, drawing.BLUE)
    assert bricks[1] > paddle[1] + 50


def test_an_animation_keeps_its_colours_and_says_how_it_went(script):
    place, length = start_of("CartPole-v1"), 500
    places = jax.tree.map(lambda x: np.repeat(x[None], length + 1, axis=0), place)
    places = places._replace(state=places.state.replace(x=np.linspace(-2.0, 2.0, length + 1)))
    recording = Recording(places, np.arange(length + 1.0), terminated=False)
    lines = script["captions"](recording)
    assert lines[0] == "step 0, return 0" and lines[-1] == "step 500, return 500 (time limit)"
    shown = list(drawing.pictures("CartPole-v1", *[[x[0], x[-1]] for x in (unstack(places), lines)]))
    for frames in (2, 20):
        content = script["animate"]("CartPole-v1", recording, frames)
        with Image.open(io.BytesIO(content)) as animation:
            assert animation.is_animated and frames - 2 < animation.n_frames <= frames
            assert animation.info["loop"] == 0
            for index, expected in ((0, shown[0]), (animation.n_frames - 1, shown[1])):
                animation.seek(index)
                difference = np.abs(np.asarray(animation.convert("RGB")).astype(int) - expected)
                assert difference.max() < 100 and difference.mean() < 1
    assert len(content) < 300_000


def unstack(places):
    return [jax.tree.map(lambda x, t=t: x[t], places) for t in range(len(places.state.x))]


@pytest.mark.parametrize(
    ("returns", "expected"),
    [([0.0, -0.001, -1.25], ["0.00", "0.00", "-1.25"]), ([0.0, -0.0, 1e6], ["0", "0", "1000000"])],
)
def test_returns_are_written_out(script, returns, expected):
    lines = script["captions"](Recording(None, np.array(returns), terminated=True))
    assert lines == [f"step {t}, return {x}" for t, x in enumerate(expected[:-1])] + [
        f"step 2, return {expected[-1]} (ended)"
    ]


@pytest.mark.costly
def test_a_run_becomes_a_gif(tmp_path):
    path = write_run(tmp_path / "run")
    write_evaluation(path, [-0.5, 0.5])
    done = here("render", path, folder=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    line = rf"wrote {path}/episode.gif \(\d+ kB\): Catch-bsuite, seed 1, greedy, step 9, return -?1 \(ended\)\n"
    assert re.fullmatch(line, done.stdout)
    with Image.open(path / "episode.gif") as animation:
        assert animation.n_frames == 10


@pytest.mark.costly
def test_the_seed_that_was_best_is_shown_unless_another_is_named(script, tmp_path):
    rendering = script["Rendering"](write_run(tmp_path / "run"))
    assert script["best_seed"](rendering.run) == 0
    write_evaluation(rendering.run, ["", 0.5])
    assert script["act"](rendering).seed == 1
    assert script["act"](replace(rendering, seed=0)).seed == 0
    write_evaluation(rendering.run, ["", ""])
    assert script["best_seed"](rendering.run) == 0


@pytest.mark.costly
def test_seeds_episodes_and_the_kind_of_policy_differ(script, tmp_path):
    settings = Settings(environment="CartPole-v1", hidden=(8,), seeds=2)
    rendering = script["Rendering"](write_run(tmp_path / "run", settings))
    variants = [{}, {"seed": 1}, {"sampled": True}, {"episode_seed": 1}]
    episodes = [script["act"](replace(rendering, **change)).recording.places.observation for change in variants]
    assert len({x.tobytes() for x in episodes}) == 4
    np.testing.assert_array_equal(episodes[0], script["act"](rendering).recording.places.observation)


def test_the_checkpoint_of_the_best_return(script, tmp_path):
    path = write_run(tmp_path / "run", number=1, score=1.0)
    write_run(path, replace(SMALL, seeds=1), number=2, score=0.0)
    rendering = script["Rendering"](path, seed=1)
    assert script["act"](replace(rendering, best=True)).seed == 1
    with pytest.raises(SettingError, match="^seed: 1 "):
        script["act"](rendering)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("run", {"run": Path("nowhere")}),
        ("out", {"out": Path("episode.png")}),
        ("out", {"out": Path("episode")}),
        ("max_frames", {"max_frames": 1}),
        ("episode_seed", {"episode_seed": -1}),
        ("episode_seed", {"episode_seed": 1 << 31}),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(script, tmp_path, field, change):
    with pytest.raises(SettingError, match=f"^{field}: ") as error:
        script["check"](replace(script["Rendering"](tmp_path), **change))
    assert "\n" not in str(error.value)


def test_what_cannot_be_shown_is_refused(script, tmp_path):
    rendering = script["Rendering"](tmp_path)
    with pytest.raises(SettingError, match="^run: .*holds no checkpoint"):
        script["act"](rendering)
    write_run(tmp_path, Settings(environment="DeepSea-bsuite", hidden=(8,), seeds=1))
    with pytest.raises(SettingError, match="^environment: 'DeepSea-bsuite' cannot be drawn; .*CartPole-v1"):
        script["act"](rendering)
    write_run(tmp_path, number=2)
    for seed in (-1, 2):
        with pytest.raises(SettingError, match=f"^seed: {seed} is not in .*, whose seeds are 0, 1"):
            script["act"](replace(rendering, seed=seed))
    (tmp_path / "evaluation.csv").write_text("torn")
    with pytest.raises(SettingError, match="^run: .*evaluation.csv"):
        script["act"](rendering)


def test_a_gif_that_cannot_be_written(script, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="^out: .*cannot be written"):
        script["write"](tmp_path / "file" / "episode.gif", b"")
    script["write"](tmp_path / "new" / "episode.gif", b"GIF")
    assert (tmp_path / "new" / "episode.gif").read_bytes() == b"GIF"


def test_a_refusal_is_all_that_a_person_sees(tmp_path):
    done = here("render", tmp_path, "--out", "episode.mp4", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: out: 'episode.mp4' must end in .gif\n"
    assert not list(tmp_path.iterdir())


def test_every_drawing_is_of_an_environment_that_is_there():
    from pgjax.environments import pgx

    assert set(drawing.DRAWINGS) <= {*environments.available(), *pgx.available()}
