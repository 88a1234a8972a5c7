"""The training program for an accelerator, by its text: no sort, no call of the host, and what it computes, counted."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params
from parts.shapes import SHAPES, built

from pgjax import sweeps
from pgjax.sweeps.loop import advanced
from pgjax.training.loop import NEVER

BY_NAME = {shape.name: shape for shape in SHAPES}
UPDATES = 7


def traced(name, monkeypatch):
    """The training program of a shape of the benchmark, with the speed-ups of an accelerator."""
    monkeypatch.setenv("PGJAX_ENGINE", "accelerator")
    shape = BY_NAME[name]
    _, _, trainer = built(shape)
    runs = sweeps.start(trainer, shape.recipe.algorithm, seeds=shape.seeds, mesh=(1, 1))
    limits = jnp.zeros(len(runs.seeds), jnp.int32), jnp.int32(NEVER)
    program = jax.jit(advanced, static_argnums=(0, 1, 2))
    return program.trace(trainer, UPDATES, runs.mesh, runs.algorithm, runs.state, limits)


def executed(jaxpr, times=1):
    """How often each primitive is executed in one call; loops whose length is not static are counted once."""
    counts = Counter()
    for equation in jaxpr.eqns:
        inner = times * equation.params["length"] if equation.primitive.name == "scan" else times
        counts[equation.primitive.name] += times
        for nested in jaxprs_in_params(equation.params):
            counts += executed(nested, inner)
    return counts


@pytest.mark.costly
@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["ppo-4x128", "ppo-1024x128", "reinforce-64x500", "trpo-32x128", "ppo-gru-16x32"])
def test_nothing_is_sorted_and_the_host_is_never_called(name, monkeypatch):
    text = traced(name, monkeypatch).lower(lowering_platforms=("cuda",)).as_text()
    found = set(re.findall(r"(?:stablehlo|chlo)\.(\w+)", text))
    assert found >= {"while", "dot_general"}
    assert not found & {"sort", "custom_call", "infeed", "outfeed", "send", "recv", "all_reduce", "all_gather"}


@pytest.mark.costly
def test_matrix_products_of_ppo_are_those_on_paper(monkeypatch):
    config = BY_NAME["ppo-4x128"].recipe.config
    counts = executed(traced("ppo-4x128", monkeypatch).jaxpr.jaxpr)
    layers = 3
    acting = config.num_steps * layers
    judging = 3 * layers  # log π of the batch's actions; V(s) at all rows; V(s) after the last
    gradient = 2 * (layers + layers + (layers - 1))  # policy and critic: forward, in weights, in inputs but the first
    assert counts["dot_general"] == UPDATES * (acting + judging + config.epochs * config.minibatches * gradient)


def every_equation(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for nested in jaxprs_in_params(equation.params):
            yield from every_equation(nested)


def innermost(jaxpr, times=1):
    """Steps of the innermost loops of static length in one call, which an accelerator launches one after the other."""
    steps = 0
    for equation in jaxpr.eqns:
        scan = equation.primitive.name == "scan"
        inner = times * equation.params["length"] if scan else times
        nested = sum(innermost(each, inner) for each in jaxprs_in_params(equation.params))
        steps += inner if scan and not nested else nested
    return steps


@pytest.mark.costly
def test_an_update_is_one_loop_of_few_steps(monkeypatch):
    config = BY_NAME["ppo-4x128"].recipe.config
    jaxpr = traced("ppo-4x128", monkeypatch).jaxpr.jaxpr
    # The three recurrences are the returns of the batch, its credit and the critic's target: once, not in every pass.
    acting, recurrences, gradients = config.num_steps, 3 * config.num_steps, config.epochs * config.minibatches
    assert innermost(jaxpr) == UPDATES * (acting + recurrences + gradients)
    scans = [equation for equation in every_equation(jaxpr) if equation.primitive.name == "scan"]
    (loop,) = [scan for scan in scans if scan.params["length"] == UPDATES]
    assert executed(jaxpr)["dot_general"] == executed(loop.params["jaxpr"].jaxpr, UPDATES)["dot_general"]
