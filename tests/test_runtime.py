"""jaxlib 0.10 can hang for ever on few cores. A child trains under load; only the outside can end a hang: SIGKILL."""

import os
import subprocess
import sys

import jaxlib
import pytest

from pgjax.engine import startup
from pgjax.types import SettingError

FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # as many threads as ever
CHILD = """
import os, sys
from dataclasses import replace
import pgjax
if sys.argv[1] == "without NPROC":
    os.environ.pop("NPROC", None)
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
else:
    pgjax.use_cpu_devices(2)
from pgjax import environments, make_agent, make_trainer, reinforce, sweeps
recipe, environment = reinforce(), environments.make("CartPole-v1")
trainer = make_trainer(environment, make_agent(environment), replace(recipe.config, num_envs=8))
runs = sweeps.start(trainer, recipe.algorithm, seeds=8)
assert runs.mesh.size == 2
for _ in range(5):
    runs, _ = sweeps.advance(trainer, runs, 1 << 30, 4)
print("trained")
"""


def without_sizes():
    """The environment, without what says how many threads or devices jax has."""
    return {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}


def train_in_a_child(mode, seconds):
    """What a child that trains on two devices beside a busy process printed; None if it had to be killed."""
    environment = without_sizes() | {"XLA_FLAGS": FAST_COMPILE}
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, mode],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )  # on a time-out, subprocess.run kills with SIGKILL
        return child.stdout.strip() or child.stderr
    except subprocess.TimeoutExpired:
        return None
    finally:
        busy.kill()


INITIALISES = """
import jax
from pgjax import environments, make_agent
agent = make_agent(environments.make("CartPole-v1"), critic="state")
init, keys = jax.jit(jax.vmap(agent.init)), jax.random.split(jax.random.key(0), 16)
for _ in range(200):
    jax.block_until_ready(init(keys))
print("initialised")
"""


@pytest.mark.costly
def test_networks_initialised_in_parallel_do_not_hang_with_two_threads():
    """Six batches of QR decompositions at a time would occupy both threads and wait for a third."""
    environment = without_sizes() | {"NPROC": "2"}
    child = subprocess.run(
        [sys.executable, "-c", INITIALISES], env=environment, capture_output=True, text=True, timeout=240
    )
    assert child.stdout.strip() == "initialised", child.stderr


@pytest.mark.slow
def test_training_does_not_hang_under_load():
    assert train_in_a_child("protected", seconds=240) == "trained"


@pytest.mark.slow
def test_training_does_not_hang_with_a_thread_for_each_core():
    assert train_in_a_child("without NPROC", seconds=240) == "trained"


MACHINE = "import os, jaxlib; jaxlib.version.__version_info__ = (0, 10, 2); os.sched_getaffinity = lambda _: {0, 1}"
"""Two cores and a version of jaxlib (of which nothing is run)."""
OUTCOMES = """
import sys, warnings
warnings.simplefilter("error")
def outcome(step):
    try:
        exec(step)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return os.environ.get("NPROC")
for step in sys.argv[1:]:
    print(outcome(step))
"""


def outcomes(*steps, **variables):
    """NPROC after each step in one process, on two cores with jaxlib 0.10.2; or what a step raised or warned."""
    command = [sys.executable, "-c", f"{MACHINE}\n{OUTCOMES}", *steps]
    done = subprocess.run(command, env=without_sizes() | variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.costly
def test_the_pool_is_enlarged_where_it_is_needed_and_what_comes_too_late_is_said():
    steps = [f"import pgjax; pgjax.use_cpu_devices({count})" for count in (0, 3, 5)]
    imported, too_few, three, started, too_late = outcomes(
        "import pgjax", *steps[:2], "import jax; jax.devices()", steps[2]
    )
    assert (imported, three, started) == ("4", "6", "6")
    assert "devices: 0 must be at least 1" in too_few and "devices: 5 is set too late" in too_late


@pytest.mark.parametrize(
    ("jaxlib_version", "given", "devices", "left"),
    [
        ((0, 10, 2), None, 1, "4"),
        ((0, 10, 2), None, 3, "6"),
        ((0, 10, 2), "8", 2, "8"),  # a pool that the user has set stays
        ((0, 10, 2), "2", 2, SettingError),
        ((0, 11, 0), None, 3, None),
        ((0, 11, 0), "2", 2, "2"),
    ],
)
def test_the_size_of_the_pool_is_the_users_or_enough(monkeypatch, jaxlib_version, given, devices, left):
    monkeypatch.setattr(jaxlib.version, "__version_info__", jaxlib_version)
    monkeypatch.setattr(startup, "cores", lambda: 2)
    monkeypatch.setattr(startup.xla_bridge, "backends_are_initialized", lambda: False)
    for name, value in {"NPROC": given, startup._OURS: None}.items():
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    if left is SettingError:
        with pytest.raises(SettingError, match="^NPROC: 2 "):
            startup.avoid_deadlock(devices)
    else:
        startup.avoid_deadlock(devices)
        assert os.environ.get("NPROC") == left


@pytest.mark.costly
def test_a_pool_that_can_no_longer_be_enlarged_is_said():
    """Behind pgjax's import, jax's thread pool is as small as the machine's cores."""
    (said,) = outcomes("import gymnax, pgjax")
    assert "can hang with the 2 threads" in said and "import pgjax before gymnax, or set NPROC=4" in said


@pytest.mark.costly
def test_after_gymnax_the_devices_that_xla_was_asked_for_serve_and_another_count_is_refused():
    flags = "--xla_force_host_platform_device_count=3"
    counted = "import jax; pgjax.use_cpu_devices(3); assert len(jax.devices()) == 3"
    four_cores = "os.sched_getaffinity = lambda _: {0, 1, 2, 3}"
    steps = ["global pgjax; import gymnax, pgjax", counted, four_cores]
    steps += [f"pgjax.use_cpu_devices({count})" for count in ("", 2)]
    *served, whatever, two = outcomes(*steps, XLA_FLAGS=flags, NPROC="6")
    assert served == ["6", "6", "6"]
    assert "jax has already started" in whatever and "call pgjax.use_cpu_devices() before" in whatever
    assert "SettingError: devices: 2 is set too late: there are 3; jax has already started" in two


WITHOUT_SEABORN = """
import sys
import pgjax
from pgjax.runs.settings.start import start
start()
import gymnax
from gymnax.environments.misc import pong
print("scipy.stats" in sys.modules)
print(len(pong.sns.color_palette("cubehelix", 4)), "scipy.stats" in sys.modules)
import seaborn
print(seaborn is pong.sns, callable(seaborn.relplot))
"""


@pytest.mark.costly
def test_scripts_import_what_only_a_drawing_of_gymnax_needs_when_it_is_used():
    done = subprocess.run([sys.executable, "-c", WITHOUT_SEABORN], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == ["False", "4 True", "True True"], done.stderr
