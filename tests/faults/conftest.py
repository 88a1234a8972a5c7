"""Ways to run train.py: in a process of its own that can be killed, or here; and a disk that is full."""

import importlib.util
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Process

from pgjax.runs.settings.command_line import from_command_line


@contextmanager
def serving(folder, prefix=()):
    """`run(*arguments)` starts train.py in a process of its own, by a command that begins so; one at a time."""
    programs = str(folder / "programs")  # its own: it may be killed while it writes one
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": programs, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*prefix, sys.executable, "-u", str(Path(__file__).parent / "server.py")]
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout.readline() == "ready\n"
    numbers = iter(range(10**6))
    yield lambda *arguments: Process(server, folder / f"stderr-{next(numbers)}", arguments)
    server.stdin.close()
    server.wait(20)


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    """`train(*arguments)` starts train.py in a process of its own; one at a time."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder) as run:
        yield run


def together(runs, place, arguments, second=()):
    """Start two processes that train together, each by its own of `runs`; `second` are the second's alone."""
    common = [*arguments, "--distributed", "--coordinator", place, "--processes", 2, "--devices", 1]
    return [run(*common, *more, "--process-id", i) for i, (run, more) in enumerate(zip(runs, [(), second]))]


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """`pair(*arguments)` starts two processes that train together; returns both. One pair at a time.

    `second` are arguments of the second one alone.
    """
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with ExitStack() as servers:
        runs = [servers.enter_context(serving(folder)) for folder in folders]

        def start(*arguments, second=()):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                place = f"127.0.0.1:{probe.getsockname()[1]}"
            return together(runs, place, arguments, second)

        yield start


@pytest.fixture
def files_up_to():
    """`with files_up_to(size):` no file grows beyond it, as on a disk that is full."""

    @contextmanager
    def limited(size):
        old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


def load_script(name="train"):
    """experiments/NAME.py as a module."""
    path = Path(__file__).parents[2] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOT_IN_PROGRAMS = dict.fromkeys(("out", "resume", "save_every", "eval_every", "updates_per_chunk", "total_steps"))


def traced_once(build):
    """`build` with one trainer for all runs of the same programs, so that these are traced once; it checks each run."""
    setups = {}

    def built(settings):
        own = build(settings)
        return setups.setdefault(replace(settings, **NOT_IN_PROGRAMS), own)._replace(algorithm=own.algorithm)

    return built


@pytest.fixture(scope="session")
def here():
    """`here(*arguments)` runs train.py in this process, quietly; returns the run directory."""
    script = load_script()
    script.build = traced_once(script.build)
    return lambda *arguments: script.main(from_command_line([*map(str, arguments), "--quiet"]))
