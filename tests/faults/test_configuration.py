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


@pytest.mark.few(8)
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


def test_a_file_of_an_earlier_version_is_read_by_todays_names(tmp_path):
    (tmp_path / "old.toml").write_text('algorithm = "ppo"\nlambda_ = 0.5\n')
    assert read_config(tmp_path / "old.toml").gae_lambda == 0.5


def test_flags_go_on_top_of_the_file(tmp_path):
    (tmp_path / "base.toml").write_text('algorithm = "ppo"\nseeds = 3\nclip = 1\nhidden = [32]\n')
    settings = from_command_line(["--config", str(tmp_path / "base.toml"), "--seeds", "5"])
    assert (settings.algorithm, settings.seeds, settings.clip, settings.hidden) == ("ppo", 5, 1.0, (32,))
    assert from_command_line([f"--config={tmp_path / 'base.toml'}"]).seeds == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 0.1", "learning_rat: 0.1 is not a setting; did you mean learning_rate?"),
        ("xyzzy = 1", "xyzzy: 1 is not a setting"),
        ("seeds = 2.5", "seeds: 2.5 must be a whole number"),
        ("seeds = true", "seeds: True must be a whole number"),
        ('discount = "much"', "discount: 'much' must be a number"),
        ("quiet = 1", "quiet: 1 must be true or false"),
        ("environment = 3", "environment: 3 must be a string"),
        ('mean = "weeks"', "mean: 'weeks' is none of trajectories, steps"),
        ('log = ["paper"]', "log: ('paper',) must be a list of names out of tensorboard, wandb, trackio"),
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
        (
            ["--log", "x"],
            "invalid choice 'x' for argument '--log'. Expected one of ('tensorboard', 'wandb', 'trackio')",
        ),
    ],
)
def test_bad_flags_are_one_line(capsys, flags, line):
    with pytest.raises(SystemExit) as end:
        from_command_line(flags)
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {line} (--help-all lists all flags)\n"


@pytest.mark.costly
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


@pytest.mark.costly
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


NEW = '''
from pgjax import methods
from pgjax import reinforce, with_hyperparameters

def mine(*, strength: float = 0.5, learning_rate=0.25, cautious: bool = False, mode: str = "soft"):
    """A method of one's own.

    Args:
      strength: how much of it.
      mode: soft or hard.
    """
    print(strength, learning_rate, cautious, mode)
    return reinforce(learning_rate=learning_rate)

methods.ALGORITHMS["mine"] = mine
methods.BASELINES["mine_too"] = None
from pgjax.runs.settings.build import build
from pgjax.runs.settings.command_line import from_command_line
build(from_command_line("--algorithm mine --strength 2 --cautious --learning-rate 3".split()))
from_command_line(["--help-all"])
'''


@pytest.mark.costly
def test_a_new_method_reaches_the_command_line_by_standing_in_the_table():
    done = subprocess.run([sys.executable, "-c", NEW], capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    text = " ".join(" ".join(line.strip("│ ") for line in lines).split())
    assert done.returncode == 0 and "2.0 3.0 True soft" in lines, done.stderr
    assert "--strength FLOAT How much of it. (default: 0.5 for mine)" in text
    assert "--mode STR Soft or hard. (default: soft for mine)" in text and "--cautious, --no-cautious" in text
    assert "vtrace, mine." in text and "optimal_per_parameter, mine_too;" in text and "0.25 for mine" in text


@pytest.mark.parametrize(("text", "steps"), [("1e5", 100_000), ("100000", 100_000), ("2.5E3", 2500)])
def test_steps_on_the_command_line(text, steps):
    assert from_command_line(["--total-steps", text]).total_steps == steps


@pytest.mark.parametrize("text", ["2.5", "1e-3", "nan", "inf", "1e5.5", "many"])
def test_what_is_no_number_of_steps(capsys, text):
    with pytest.raises(SystemExit):
        from_command_line(["--total-steps", text])
    line = capsys.readouterr().err
    assert line.startswith("error: Error parsing --total-steps: ") and line.count("\n") == 1


@pytest.mark.parametrize("steps", [2**31, 2**31 - 1, 3e9, 10**12, 2.5, float("nan"), float("inf"), True, "9", 0])
def test_budgets_that_no_counter_holds(steps):
    with pytest.raises(SettingError, match="^total_steps: ") as error:
        build(Settings(total_steps=steps))
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_lists_are_plain():
    import numpy as np

    plain = Settings(seeds=np.int64(3), total_steps=np.float32(1e5), hidden=[np.int32(8)], discount=np.float64(0.5))
    assert plain == Settings(seeds=3, total_steps=100_000, hidden=(8,), discount=0.5)
    assert type(plain.seeds) is type(plain.total_steps) is type(plain.hidden[0]) is int and config_text(plain)
