"""Settings from files, flags and runs: accepted back as they were written, or refused in one line."""

import subprocess
import sys
import tomllib

import jax
import pytest
from runs import TINY

from pgjax import ALGORITHMS
from pgjax.runs.settings.build import build
from pgjax.runs.settings.command_line import from_command_line
from pgjax.runs.settings.config_file import config_text, read_config, recorded
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_written_configuration_is_the_same_run(tmp_path, algorithm):
    settings = Settings(
        algorithm=algorithm,
        learning_rate=0.1 + 0.2,
        max_grad_norm=float("inf"),
        log=("wandb", "tensorboard"),
        hidden=(8, 4),
    )
    (tmp_path / "config.toml").write_text(config_text(settings))
    again = read_config(tmp_path / "config.toml")
    assert recorded(again) == recorded(settings) and recorded(again)["log"] == ("wandb", "tensorboard")
    one, two = build(settings).algorithm, build(again).algorithm
    assert jax.tree.structure(one) == jax.tree.structure(two) and jax.tree.leaves(one) == jax.tree.leaves(two)


def test_flags_go_on_top_of_the_file(tmp_path):
    (tmp_path / "base.toml").write_text('algorithm = "ppo"\nseeds = 3\nclip = 1\nhidden = [32]\n')
    settings = from_command_line(["--config", str(tmp_path / "base.toml"), "--seeds", "5"])
    assert (settings.algorithm, settings.seeds, settings.clip, settings.hidden) == ("ppo", 5, 1.0, (32,))
    assert from_command_line([f"--config={tmp_path / 'base.toml'}"]).seeds == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 0.1", "learning_rat: 0.1 is no setting; did you mean learning_rate?"),
        ("xyzzy = 1", "xyzzy: 1 is no setting"),
        ("seeds = 2.5", "seeds: 2.5 must be a whole number"),
        ("seeds = true", "seeds: True must be a whole number"),
        ('discount = "much"', "discount: 'much' must be a number"),
        ("quiet = 1", "quiet: 1 must be true or false"),
        ("environment = 3", "environment: 3 must be text"),
        ('mean = "weeks"', "mean: 'weeks' is none of trajectories, steps"),
        ('log = ["paper"]', "log: ('paper',) must be a list of one or several of tensorboard, wandb"),
        ("hidden = [8, 0.5]", "hidden: (8, 0.5) must be a list of whole numbers"),
        ("hidden = 8", "hidden: 8 must be a list of whole numbers"),
        ('resume = "x"', "resume: 'x' is for the command line only"),
    ],
)
def test_bad_entries_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "base.toml").write_text(text)
    with pytest.raises(SettingError) as error:
        read_config(tmp_path / "base.toml")
    assert str(error.value) == message


def test_files_that_are_none(tmp_path):
    (tmp_path / "bad.toml").write_text("seeds == 3")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name, reason in (
        ("bad.toml", "is not TOML"),
        ("bytes.toml", "is not TOML"),
        ("no.toml", "cannot be read: No "),
    ):
        with pytest.raises(SettingError, match=f"^config: .*{name}' {reason}"):
            read_config(tmp_path / name)
    with pytest.raises(SettingError, match="^resume: .*cannot be read: No such file"):
        from_command_line(["--resume", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--learnin-rate", "3"], "Unrecognized options: --learnin-rate, 3; did you mean --learning-rate?"),
        (["--seeds", "abc"], "Error parsing --seeds: invalid literal for int() with base 10: 'abc'"),
        (["--baseline"], "Missing value for argument '--baseline'. Expected 1 values"),
        (["--log", "x"], "invalid choice 'x' for argument '--log'. Expected one of ('tensorboard', 'wandb')"),
    ],
)
def test_bad_flags_are_one_line(capsys, flags, line):
    with pytest.raises(SystemExit) as end:
        from_command_line(flags)
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {line} (--help lists all flags)\n"


def test_a_run_writes_what_it_resolved(here, tmp_path):
    path = here(*TINY, "--total-steps", 36, "--out", tmp_path / "run")
    table = tomllib.loads((path / "config.toml").read_text())
    assert table["learning_rate"] == 0.01 and table["baseline"] == "leave_one_out" and "clip" not in table
    assert not {"out", "quiet", "resume", "config"} & set(table) and table["versions"]["jax"] == jax.__version__


SECOND = """
import hashlib, os, signal
from pgjax.runs.record.interrupts import stop_request
with stop_request() as stop:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes without Python
"""


def test_a_second_ctrl_c_ends_at_once_even_inside_compiled_code():
    import signal
    import time

    process = subprocess.Popen([sys.executable, "-c", SECOND], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
