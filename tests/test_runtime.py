"""jaxlib 0.10 can hang for ever on few cores. A child trains under load; only the outside can end a hang: SIGKILL."""

import os
import subprocess
import sys

import jaxlib
import pytest

from pgjax.engine import startup

CHILD = """
import os, sys
from dataclasses import replace
import pgjax
if sys.argv[1] == "unprotected":
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


def train_in_a_child(mode, seconds):
    """What a child that trains on two devices beside a busy process printed; None if it had to be killed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
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


def test_training_does_not_hang_under_load():
    assert train_in_a_child("protected", seconds=240) == "trained"


@pytest.mark.slow
def test_without_protection_it_would():
    """What the protection is for: shows that the test above can fail where jaxlib hangs."""
    if jaxlib.version.__version_info__ >= (0, 11) or (os.cpu_count() or 1) > 2:
        pytest.skip("this jaxlib, or a machine of this many cores, does not hang")
    assert train_in_a_child("unprotected", seconds=60) is None


def pool_after(code, jaxlib=(0, 10, 2), **variables):
    """NPROC after some code, or what stopped it, on two cores with that version of jaxlib (of which nothing is run)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")} | variables
    machine = (
        f"import os, jaxlib; jaxlib.version.__version_info__ = {jaxlib}; os.sched_getaffinity = lambda _: {{0, 1}}"
    )
    program = f"{machine}; import pgjax; {code}; print(os.environ.get('NPROC'))"
    child = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    return child.stdout.strip() or child.stderr


def test_the_pool_is_enlarged_where_it_is_needed():
    assert pool_after("pass") == "4"
    assert pool_after("pgjax.use_cpu_devices(3)") == "6"
    assert pool_after("pgjax.use_cpu_devices(3)", jaxlib=(0, 11, 0)) == "None"


def test_a_pool_that_can_no_longer_be_enlarged_is_said():
    """Behind pgjax's import, jax's thread pool is as small as the machine's cores."""
    code = "import warnings, gymnax; warnings.simplefilter('error'); import pgjax"
    machine = "import os, jaxlib; os.sched_getaffinity = lambda _: {0, 1}; jaxlib.version.__version_info__ = (0, 10, 2)"
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    child = [sys.executable, "-c", f"{machine}; {code}"]
    said = subprocess.run(child, env=environment, capture_output=True, text=True, timeout=100).stderr
    assert "can hang with the 2 threads" in said and "import pgjax before gymnax, or set NPROC=4" in said
    assert subprocess.run(child, env=environment | {"NPROC": "4"}, timeout=100).returncode == 0


def test_a_pool_the_user_has_set_stays():
    assert pool_after("pgjax.use_cpu_devices(2)", NPROC="8") == "8"


def test_a_pool_the_user_has_set_too_small_for_the_devices_is_refused():
    assert "NPROC: 2 " in pool_after("pgjax.use_cpu_devices(2)", NPROC="2")
    assert pool_after("pgjax.use_cpu_devices(2)", jaxlib=(0, 11, 0), NPROC="2") == "2"


def test_too_late_is_said():
    assert "devices: 5 comes too late" in pool_after("import jax; jax.devices(); pgjax.use_cpu_devices(5)")


def test_too_few_is_said():
    assert "devices: 0 must be at least 1" in pool_after("pgjax.use_cpu_devices(0)")


def after_gymnax(count, **variables):
    """What `use_cpu_devices(count)` says where gymnax was imported before pgjax: output, errors."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"NPROC": "4"} | variables
    code = f"import gymnax, pgjax; pgjax.use_cpu_devices({count}); import jax; print(len(jax.devices('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    return child.stdout.strip(), child.stderr


def test_after_gymnax_the_devices_that_there_are_serve():
    found, said = after_gymnax("")
    cores = startup.cores()
    assert found == "1" and said.count("jax has already started") == (cores > 1)
    assert ("call pgjax.use_cpu_devices() before" in said) == (cores > 1)


def test_after_gymnax_a_count_that_is_there_serves_and_another_is_refused():
    assert after_gymnax(1) == ("1", "")
    assert after_gymnax(3, XLA_FLAGS="--xla_force_host_platform_device_count=3") == ("3", "")
    found, said = after_gymnax(2)
    assert found == "" and "SettingError: devices: 2 comes too late: there are 1; jax has already started" in said
