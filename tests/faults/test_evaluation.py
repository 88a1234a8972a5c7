"""Evaluations while a run trains: training is the same without them, and a resumed run writes the same table."""

import shutil

import jax
import numpy as np
import pytest
from runs import TINY, fingerprint
from test_runs import stop_after

from pgjax import evaluate, sweeps
from pgjax.runs.record import checkpoints, files
from pgjax.runs.record.attempts import say
from pgjax.runs.record.evaluation_file import COLUMNS, is_complete, points_by_seed, read_evaluation, rows_of
from pgjax.runs.record.interrupts import Stopped
from pgjax.types import SettingError

STEPS = "--total-steps", 36 * 22  # 22 updates, in chunks of 5: boundaries at 180, 360, 540, 720 and 792 steps
EVERY = "--eval-every", 300  # passed in the chunks that end at 360 and 720


@pytest.fixture(scope="module")
def whole(here, tmp_path_factory):
    return here(*TINY, *STEPS, *EVERY, "--out", tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.costly
def test_training_is_the_same_without_and_points_lie_at_the_ends_of_chunks(here, whole, tmp_path):
    without = here(*TINY, *STEPS, "--out", tmp_path / "run")
    assert fingerprint(whole) == fingerprint(without)
    rows, end = read_evaluation(whole), read_evaluation(without)
    assert rows["env_steps"].tolist() == [360, 360, 720, 720, 792, 792] and rows["seed"].tolist() == [0, 1] * 3
    assert rows["final"].tolist() == [False] * 4 + [True] * 2
    for name in COLUMNS:
        np.testing.assert_array_equal(rows[name][-2:], end[name])


@pytest.mark.costly
def test_a_point_is_what_evaluate_says_of_the_checkpoint_there(here, tmp_path):
    run = here(*TINY, *STEPS, *EVERY, "--save-every", 0, "--keep", 9, "--out", tmp_path / "run")
    points = points_by_seed(read_evaluation(run))
    for number, place in ((10, 0), (20, 1), (22, 2)):
        whole = checkpoints.read(run / "checkpoints" / f"{number:08d}")
        assert whole.record["score"] == pytest.approx(points["greedy_return"][:, place].mean())
    setup, params = files.load_run(run)
    second = jax.tree.map(lambda x: x[1], params)
    for place, name in enumerate(sweeps.RETURNS):
        key = jax.random.key((1 << 31) + place)
        found = evaluate(setup.environment, setup.agent, second, key, episodes=4, greedy=bool(place)).mean()
        np.testing.assert_allclose(points[name][1, -1], found, atol=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_stopped_run_goes_on_to_the_same_table(here, whole, tmp_path, monkeypatch, chunks):
    """After two of the chunks an evaluation is due and not yet made: the resumed run makes it first."""
    undo = stop_after(monkeypatch, chunks - 1)
    with pytest.raises(Stopped):
        here(*TINY, *STEPS, *EVERY, "--out", tmp_path / "run")
    undo()
    assert not files.is_finished(tmp_path / "run")
    here("--resume", tmp_path / "run")
    assert files.is_finished(tmp_path / "run") and fingerprint(tmp_path / "run") == fingerprint(whole)
    assert (tmp_path / "run" / "evaluation.csv").read_bytes() == (whole / "evaluation.csv").read_bytes()


@pytest.mark.costly
def test_rows_beyond_the_checkpoint_are_made_again(here, whole, tmp_path, monkeypatch):
    """As SIGKILL leaves them: points of the table that no checkpoint knows, the last one torn."""
    undo = stop_after(monkeypatch, 0)
    with pytest.raises(Stopped):
        here(*TINY, *STEPS, *EVERY, "--out", tmp_path / "run")
    undo()
    text = (whole / "evaluation.csv").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "evaluation.csv").write_text("".join(text[:4]) + text[4][:-6])
    here("--resume", tmp_path / "run")
    assert (tmp_path / "run" / "evaluation.csv").read_bytes() == (whole / "evaluation.csv").read_bytes()


@pytest.mark.costly
def test_the_best_checkpoint_is_the_best_by_evaluation(here, tmp_path, monkeypatch):
    """Greedy returns that rise and fall again: the one at their height is kept, though no save was due there."""
    heights = iter([1.0, 5.0, 3.0, 2.0, 2.0])

    def point(trainer, runs, episodes):
        found = np.full(2, next(heights))
        return {"env_steps": np.asarray(runs.state.env_steps), "sampled_return": found, "greedy_return": found}

    monkeypatch.setattr(sweeps, "evaluation_point", point)
    run = here(*TINY, *STEPS, "--eval-every", 180, "--keep", 1, "--save-every", 1e6, "--out", tmp_path / "run")
    numbers = [int(path.name) for path in checkpoints.paths(run / "checkpoints")]
    assert numbers == [10, 22]
    assert checkpoints.best(run / "checkpoints", say).number == 10


@pytest.mark.costly
@pytest.mark.parametrize(
    "left", ["", "seed,env_st", "seed,env_steps,sampled_return,greedy_return,final\n0,792,0,0,1\n"]
)
def test_a_table_that_is_not_whole_finishes_nothing(here, whole, tmp_path, left):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "evaluation.csv").write_text(left)
    assert not files.is_finished(tmp_path / "run")
    here("--resume", tmp_path / "run")
    assert files.is_finished(tmp_path / "run")


def test_tables_of_earlier_versions_have_their_end_alone(tmp_path):
    (tmp_path / "evaluation.csv").write_text("seed,env_steps,sampled_return,greedy_return\n0,9,1,2\n1,9,1,\n")
    rows = read_evaluation(tmp_path)
    assert is_complete(rows, 2) and not is_complete(rows, 3) and np.isnan(rows["greedy_return"][1])
    point = {"env_steps": [1, 2], "sampled_return": [0.0, 0.0], "greedy_return": [0.0, 0.0]}
    assert not is_complete(read_evaluation(tmp_path / "none", rows_of(np.arange(2), point, final=False)))


def test_nonsense_is_refused(here, tmp_path):
    with pytest.raises(SettingError, match="^eval_every: -1 must not be negative"):
        here(*TINY, *STEPS, "--eval-every", -1, "--out", tmp_path / "run")
