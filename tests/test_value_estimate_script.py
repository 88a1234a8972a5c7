"""The script that judges a log of trajectories: what it finds, and every log it refuses."""

import json
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parts.trajectory_log import read_log
from scripts import EXPERIMENTS, here

from pgjax import SettingError, make_signals
from pgjax.estimators.value_estimates import VALUE_ESTIMATES

SCRIPT = EXPERIMENTS / "value_estimate.py"


def good_log():
    rng = np.random.default_rng(0)
    T, N = 6, 40
    log_prob = np.log(rng.uniform(0.2, 0.8, (T, N)))
    length = rng.integers(1, T + 1, N)
    mask = np.arange(T)[:, None] < length
    return {
        "reward": rng.normal(size=(T, N)),
        "log_prob": np.where(mask, log_prob, np.nan),  # padding is not looked at
        "target_log_prob": log_prob + 0.3 * rng.normal(size=(T, N)),
        "mask": mask,
        "terminated": np.arange(T)[:, None] == length - 1,
        "value": rng.normal(size=(T, N)),
        "action_value": rng.normal(size=(T, N)),
        "comment": np.array("other arrays are passed over"),
    }


@jax.jit
def estimates(signals):
    return {name: estimate(signals, 0.9) for name, estimate in VALUE_ESTIMATES.items()}


@pytest.mark.costly
def test_the_script_estimates_as_the_library_does(tmp_path):
    log = good_log()
    np.savez(tmp_path / "log.npz", **log)
    flags = "--log log.npz --discount 0.9 --level 0.9 --json out.json"
    done = here("value_estimate", *flags.split(), folder=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["trajectories"], result["steps"]) == (40, log["mask"].sum())
    assert {p.name for p in tmp_path.iterdir()} == {"log.npz", "out.json"}
    with jax.enable_x64(True):
        signals = make_signals(  # not by read_log
            log["reward"],
            mask=log["mask"],
            discount=0.9,
            value=log["value"],
            log_ratio=log["target_log_prob"] - log["log_prob"],
            action_value=log["action_value"][..., None],
            action=jnp.zeros((6, 40), int),
        )
        for name, estimate in estimates(signals).items():
            expected = estimate._asdict()
            assert result["estimates"][name] == pytest.approx({k: float(x) for k, x in expected.items()}, rel=1e-12)
            assert re.search(rf"{name} .*{float(expected['mean']):.4g}.*{float(expected['low']):.3g} to ", done.stdout)


def changed(name, entry, value):
    """A change of one entry of one array of a good log."""

    def change(log):
        log[name] = log[name].astype(float)
        log[name][entry] = value

    return change


def without(*names):
    def change(log):
        for name in names:
            del log[name]

    return change


BAD = {
    "missing": (without("log_prob"), "log_prob: None is missing"),
    "half a critic": (without("value"), "value: None is missing.*action_value"),
    "the other half": (without("action_value"), "action_value: None is missing.*value"),
    "shape": (lambda log: log.update(log_prob=np.ones((6, 39))), r"log_prob: \(6, 39\) .*\(6, 40\)"),
    "rank": (lambda log: log.update(reward=np.ones(6)), r"reward: \(6,\) .*\[T, N\]"),
    "empty": (lambda log: log.update(reward=np.ones((0, 40))), r"reward: \(0, 40\)"),
    "one": (lambda log: log.update({k: x[:, :1] for k, x in log.items() if x.ndim}), r"reward: \(6, 1\) .*2 traj"),
    "nan": (changed("reward", (0, 3), np.nan), r"reward\[0, 3\]: nan is not a finite"),
    "inf": (changed("action_value", (0, 1), np.inf), r"action_value\[0, 1\]: inf is not a finite"),
    "behaviour -inf": (changed("log_prob", (0, 0), -np.inf), r"log_prob\[0, 0\]: -inf"),
    "target +inf": (changed("target_log_prob", (0, 0), np.inf), r"target_log_prob\[0, 0\]: inf"),
    "no overlap": (changed("target_log_prob", 0, -np.inf), "target_log_prob: -inf is in every trajectory"),
    "mask 0.5": (changed("mask", (0, 2), 0.5), r"mask\[0, 2\]: 0.5 is neither 0 nor 1"),
    "mask with a hole": (changed("mask", (slice(4), 2), [1, 0, 1, 0]), r"mask\[2, 2\]: 1.0 follows a 0"),
    "no step": (
        changed("mask", (slice(None), 2), 0),
        r"mask\[0, 2\]: 0.0 must be 1: the trajectory needs a first step",
    ),
    "early end": (changed("terminated", (0, slice(None)), 1), r"terminated\[0, \d+\]: 1.0 is not at the last step"),
    "text": (lambda log: log.update(reward=np.array([["a"]])), "reward: '<U1' is its type"),
    "objects": (lambda log: log.update(reward=np.array([[None]])), "reward: None cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_logs_are_refused(tmp_path, name):
    log = good_log()
    change, message = BAD[name]
    change(log)
    np.savez(tmp_path / "log.npz", **log)
    with pytest.raises(SettingError, match=f"^{message}"):
        read_log(tmp_path / "log.npz")


def test_files_that_are_no_logs_are_refused(tmp_path):
    np.savez(tmp_path / "good.npz", **good_log())
    whole = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.ones(3))
    contents = {"text": b"reward, log_prob\n", "nothing": b"", "half": whole[: len(whole) // 2]}
    for stem, content in contents.items():
        (tmp_path / stem).write_bytes(content)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    (tmp_path / "damaged").write_bytes(damaged)
    reasons = {"absent": "does not exist", ".": "cannot be read", "array.npy": "single array", "damaged": "damaged"}
    for stem in ("absent", ".", "array.npy", "damaged", *contents):
        with pytest.raises(SettingError, match=reasons.get(stem, "is not an .npz file")):
            read_log(tmp_path / stem)


def test_the_script_refuses_in_one_line_and_writes_nothing(tmp_path):
    log = good_log()
    changed("reward", (0, 0), np.nan)(log)
    np.savez(tmp_path / "bad.npz", **log)
    done = here("value_estimate", "--log", "bad.npz", "--json", "out.json", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: reward[0, 0]: nan is not a finite number\n"
    assert {p.name for p in tmp_path.iterdir()} == {"bad.npz"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log": "good.npz", "level": 95.0}, "level: 95.0 must lie"),
        ({"log": "good.npz", "discount": 1.5}, "discount: 1.5 must lie"),
        ({"log": "good.npz", "json": "absent/out.json"}, "json: '.*absent/out.json' cannot be written"),
        ({"json": "out.json"}, "json: '.*out.json' needs --log"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, options, message):
    np.savez(tmp_path / "good.npz", **good_log())
    script = runpy.run_path(str(SCRIPT))
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(SettingError, match=f"^{message}"):
        script["main"](script["Options"](**given))
    assert capsys.readouterr().out == "" and {p.name for p in tmp_path.iterdir()} == {"good.npz"}
