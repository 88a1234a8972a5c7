"""Shared fixtures. pgjax is imported first, so that jax starts with a thread pool that cannot deadlock."""

import os

# Most of the suite's time is compilation of programs that then run for milliseconds: half of it goes without LLVM's
# optimiser. XLA_FLAGS of your own are respected: XLA_FLAGS= runs the tests as users run the library.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# Scripts that tests start leave nothing in the user's cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")

import jax
import numpy as np
import pytest

from pgjax import oracle, use_cpu_devices

use_cpu_devices(2)


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


def _random_mdp(seed, states, actions, horizon, discount, ends):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    if ends:
        transition *= rng.uniform(0.4, 0.9, (states, actions, 1))
    return oracle.make_mdp(
        rng.dirichlet(np.ones(states)), transition, rng.normal(size=(states, actions)), horizon, discount
    )


MDPS = {
    "variable_length": _random_mdp(0, states=2, actions=3, horizon=3, discount=0.9, ends=True),
    "fixed_length": _random_mdp(1, states=3, actions=2, horizon=3, discount=1.0, ends=False),
    "one_state": oracle.make_mdp([1.0], [[[0.8], [0.3]]], [[1.0, -0.5]], horizon=4, discount=0.7),
}


@pytest.fixture(params=list(MDPS))
def mdp(request):
    """Small problems of different shape; two of them with episodes of variable length."""
    return MDPS[request.param]


@pytest.fixture
def theta(mdp):
    """Logits of a tabular softmax policy."""
    return np.random.default_rng(7).normal(size=mdp.reward.shape)
