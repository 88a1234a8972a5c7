"""What is printed never ends a process: terminals that hang up, readers that have gone, full disks, ASCII locales."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pgjax.engine import output
from pgjax.sweeps.progress import progress_bar

ROOT = Path(__file__).parents[2]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SPEAK = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("output", {output.__file__!r})
output = importlib.util.module_from_spec(spec)
spec.loader.exec_module(output)
output.open_output()
for line in range(20000):
    print("\\u03b3 \\xd7 \\u250f\\u2501\\u2513 \\udce9", line)
    if line % 5000 == 0:
        print("\\xd7", file=sys.stderr)
os.write({{told}}, b"done")
"""
"""A process that prints much, and tells when it has come to its end; it imports output.py alone, which is quick."""


def speak(**streams):
    """Its exit status, and what it told."""
    reader, told = os.pipe()
    command = [sys.executable, "-c", SPEAK.replace("{told}", str(told))]
    environment = {**os.environ, **streams.pop("env", {})}
    process = subprocess.Popen(command, pass_fds=[told], env=environment, **streams)
    os.close(told)
    with os.fdopen(reader, "rb") as file:
        found = file.read()
    return process.wait(20), found


def test_a_disk_that_is_full():
    with open("/dev/full", "w") as full:
        assert speak(stdout=full, stderr=full) == (0, b"done")


def test_a_reader_that_has_gone():
    reader, writer = os.pipe()
    os.close(reader)
    assert speak(stdout=writer, stderr=writer) == (0, b"done")
    os.close(writer)


def test_a_terminal_that_hangs_up():
    main, terminal = pty.openpty()
    os.close(main)
    assert speak(stdin=terminal, stdout=terminal, stderr=terminal) == (0, b"done")
    os.close(terminal)


def test_streams_that_were_closed():
    reader, told = os.pipe()
    command = [sys.executable, "-c", SPEAK.replace("{told}", str(told))]
    process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], pass_fds=[told])
    os.close(told)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"done" and process.wait(20) == 0


def test_a_locale_of_ascii(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        assert speak(stdout=out, stderr=out, env=ASCII) == (0, b"done")
    assert b"gamma x +-+ ? 19999\n" in (tmp_path / "out").read_bytes()


def test_a_pipe_that_does_not_wait(tmp_path):
    """All lines arrive, though the pipe is full again and again."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    counter = subprocess.Popen(["wc", "-l"], stdin=reader, stdout=subprocess.PIPE, text=True)
    os.close(reader)
    assert speak(stdout=writer, stderr=subprocess.DEVNULL) == (0, b"done")
    os.close(writer)
    assert counter.communicate()[0].strip() == "20000"


def test_the_progress_bar_goes_on_without_its_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    main, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(100) as bar:
            os.close(main)
            chunk = {"env_steps": np.full((1, 1), 50), "return_mean": np.ones((1, 1)), "active": np.full((1, 1), True)}
            bar.update(chunk)
            time.sleep(0.4)  # rich draws four times a second, in a thread of its own
        monkeypatch.undo()


@pytest.mark.costly
def test_help_where_nothing_is_as_it_should_be():
    """An ASCII locale, no home directory, a user without a name, and a reader that has gone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")} | ASCII
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "import pwd, runpy, sys\n"
        "def nobody(number): raise KeyError(number)\n"
        "pwd.getpwuid = nobody\n"
        "from pgjax.runs.settings.start import start\n"
        "start(1)\n"
        f"sys.argv = ['train.py', '--help']\n"
        f"runpy.run_path({str(ROOT / 'experiments' / 'train.py')!r}, run_name='__main__')"
    )
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=300
    )
    os.close(writer)
    lines = [line for line in found.stderr.decode().splitlines() if "atplotlib" not in line]  # it says so as well
    assert (found.returncode, lines) == (0, [])


@pytest.mark.parametrize("script", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_begins_at_this_door(script):
    assert re.search(r'if __name__ == "__main__":\n    (as_script\(|with one_line\(\):)', script.read_text("utf-8"))
