"""Shared fixtures. pgjax is imported first, so that jax starts with a thread pool that cannot deadlock."""

import functools
import gc
import os
import shutil
import tempfile
from pathlib import Path

# Most of the suite's time is compilation of programs that then run for milliseconds. Three quarters of it go without
# LLVM's optimiser, and with XLA's older emitter of fused loops, which makes no MLIR dialects and pass pipelines of its
# own for each of them. XLA_FLAGS of your own are respected: XLA_FLAGS= runs the tests as users run the library.
FAST_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",  # a jaxlib that does not know it ignores it
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(FAST_COMPILE))

# What several tests and the scripts they start compile, this process compiles once; nothing goes to the user's cache.
# A folder for each process: jax does not write an entry at once, so that another process could read half of one.
PROGRAMS = tempfile.mkdtemp(prefix="pgjax-tests-")
os.environ |= {
    "JAX_ENABLE_COMPILATION_CACHE": "1",
    "JAX_COMPILATION_CACHE_DIR": PROGRAMS,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # programs do not carry the lines of code that they come from
}

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir
from problems import MDPS

from pgjax import use_cpu_devices

use_cpu_devices(2)

# jax makes an MLIR context, with all dialects, for each program; it takes as long as compiling one operation does.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# Tracing makes many short-lived objects: full collections each time would take a seventh of the suite.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

MOST_MAPS = 40_000


def pytest_unconfigure():
    """Remove what was compiled."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark cases of a test with `few(n, costly=m)`: n stay in the default run, m more are costly, the others slow."""
    cases = {}
    for item in items:
        few = item.get_closest_marker("few")
        if few and not item.get_closest_marker("slow"):
            numbers = few.args[0], few.kwargs.get("costly", 0)
            cases.setdefault((item.path, item.originalname), (numbers, []))[1].append(item)
    for (default, costly), group in cases.values():
        for_default, for_both = _spaced(default, len(group)), _spaced(default + costly, len(group))
        for i, item in enumerate(group):
            if i not in for_default:
                item.add_marker(pytest.mark.costly if i in for_both else pytest.mark.slow)


def _spaced(number, count):
    """So many of `count` positions, evenly spaced."""
    return {round(i * (count - 1) / max(1, number - 1)) for i in range(number)}


@pytest.fixture(autouse=True)
def few_programs():
    """Forget compiled programs before there are too many.

    Each maps memory of its own, Linux allows a process 65 530 maps, and XLA crashes when it gets no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        mlir.make_ir_context.cache_clear()
        gc.collect()


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=list(MDPS))
def mdp(request):
    """Small problems of different shape; two of them with episodes of variable length."""
    return MDPS[request.param]


@pytest.fixture
def theta(mdp):
    """Logits of a tabular softmax policy."""
    return np.random.default_rng(7).normal(size=mdp.reward.shape)
