"""The scripts of `experiments`, run from a command line: in a process of their own, or here, where jax is imported."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import jax
from matplotlib import pyplot as plt

from pgjax.engine import startup
from pgjax.runs.settings import start

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TERMINAL = {"COLUMNS": "80"}
NOT_SHOWN = DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning  # by Python, unless asked to


class Ended(NamedTuple):
    """How a script ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def in_a_process(name, *arguments, folder):
    """`python experiments/NAME.py ARGUMENTS`, in a folder."""
    command = [sys.executable, EXPERIMENTS / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=os.environ | TERMINAL, capture_output=True, text=True, timeout=500)
    return Ended(done.returncode, done.stdout, done.stderr)


def here(name, *arguments, folder):
    """The same without a process of its own, and so without seconds of imports."""
    return run_here(EXPERIMENTS / f"{name}.py", *arguments, folder=folder)


def run_here(path, *arguments, folder):
    """A whole file as `__main__`.

    jax has started with the devices that the tests have: those are the cores that the script finds, and its devices
    however many it asks for.
    """
    code = None
    with contextlib.ExitStack() as changed:
        changed.enter_context(contextlib.chdir(folder))
        changed.enter_context(patch.object(sys, "argv", [str(path), *map(str, arguments)]))
        changed.enter_context(patch.dict(os.environ, TERMINAL))
        changed.enter_context(patch.object(startup, "cores", jax.local_device_count))
        changed.enter_context(patch.object(start, "use_cpu_devices"))
        changed.callback(plt.close, "all")
        said = changed.enter_context(warnings.catch_warnings(record=True))
        stdout = changed.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stderr = changed.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code
    shown = [str(warning.message) for warning in said if not issubclass(warning.category, NOT_SHOWN)]
    return Ended(int(code or 0), stdout.getvalue(), stderr.getvalue() + "".join(shown))
