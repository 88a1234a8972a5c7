"""What do the parts of GRPO and its relatives estimate? Each by enumeration, beside a closed form where there is one.

- group's std: the objective that it maximises, for rewards 0 and 1
- group's mean: how much it shrinks the gradient
- own length: the objective that it maximises, for varying lengths
- global std: the weights of prompts that share a batch
- clipping: its bias, below and beyond the distance at which clipping begins
- dynamic sampling: the effect on the mean of dropping groups with equal returns
- sequence ratio: the geometric mean of an episode's ratios, compared with their product
- k1, k2, k3: estimates of the KL to a reference policy, as value, as loss and in the reward.

The second table has the estimators of the recipes on batches of two, for varying and for fixed lengths, on-policy and
at two distances δ. Its columns are the scale ⟨ḡ, ∇J⟩/‖∇J‖², the cosine, the relative bias ‖ḡ − ∇J‖/‖∇J‖, and the
variance of one trajectory. Everything is a sum over every batch of small problems in float64. `--json OUT.json` writes
both tables. Expect enumeration and closed form to agree up to rounding. About two minutes; --quick shows two parts of
the first table only.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # a hundred short programs compile faster without LLVM's optimiser
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from parts.command import as_script

from pgjax import (
    ALGORITHMS,
    Config,
    baselined,
    baselines,
    make_signals,
    oracle,
    product,
    reward_to_go,
    score,
    standardised,
    total_return,
)
from pgjax.estimators.clipping import clipped_between, clipped_weight
from pgjax.estimators.groups import dynamically_sampled, group_standardised
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.reference_kl import ESTIMATES, log_to_reference
from pgjax.estimators.sequence_ratios import log_mean_ratio
from pgjax.estimators.surrogates import trajectory_weight
from pgjax.runs.record.texts import write_text

FLOOR = 1e-8
"""The constant that `group_standardised` adds to a standard deviation."""

ONE_START, TWO_STARTS = np.array([1.0]), np.array([0.6, 0.4])
PROMPTS = oracle.make_mdp(np.array([0.5, 0.5]), np.zeros((2, 2, 2)), np.array([[1.0, 0.0], [1.0, 0.0]]), horizon=1)
"""Two prompts, one step, two answers, reward 1 for the first one."""
PROMPT_LOGITS = np.array([[2.0, 0.0], [-0.3, 0.0]])  # success probabilities 0.88 and 0.43
ONE_PROMPT = oracle.make_mdp(ONE_START, np.zeros((1, 2, 1)), np.array([[1.0, 0.0]]), horizon=1)
FIXED = oracle.make_mdp(ONE_START, np.ones((1, 2, 1)), np.array([[1.0, -0.5]]), horizon=3)
ARMS = oracle.make_mdp(ONE_START, np.zeros((1, 3, 1)), np.array([[1.0, 0.6, 0.0]]), horizon=1)
REWARD = np.array([[1.0, 0.2, 0.7], [0.4, -0.3, 1.2]])
MAY_END = np.array([[[0.5, 0.3], [0.2, 0.5], [0.0, 0.1]], [[0.3, 0.3], [0.1, 0.6], [0.0, 0.0]]])
GOES_ON = np.array([[[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]], [[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]])
TWO_STATES = oracle.make_mdp(TWO_STARTS, MAY_END, REWARD, horizon=2)
ALWAYS_TWO_STEPS = oracle.make_mdp(TWO_STARTS, GOES_ON, REWARD, horizon=2)
THETA = np.array([[0.3, -0.4, 0.2], [-0.2, 0.5, 0.9]])
REFERENCE = np.array([[-1.5, 0.2, 1.0], [0.6, 0.1, -1.7]])


class Fact(NamedTuple):
    """A row of the first table."""

    part: str
    what: str
    found: float
    closed_form: float | None = None


@dataclass(frozen=True)
class Options:
    """Options of the tables."""

    json: Path | None = None
    """JSON file for both tables."""
    quick: bool = False
    """Show two parts of the first table only."""


def main(options: Options) -> int:
    """Enumerate, print and write."""
    with jax.enable_x64(True):
        found = facts(QUICK if options.quick else PARTS)
        rows = [] if options.quick else estimator_rows()
    for i, fact in enumerate(found):
        if i == 0 or found[i - 1].part != fact.part:
            print(f"\n{fact.part:<40}{'by enumeration':>20}{'closed form':>20}")
        closed = "" if fact.closed_form is None else f"{fact.closed_form:20.10f}"
        print(f"  {fact.what}\n{'':<40}{fact.found:20.10f}{closed}")
    gap = max(abs(f.found - f.closed_form) for f in found if f.closed_form is not None)
    print(f"largest difference from a closed form: {gap:.1e}")
    if rows:
        print(f"\n{'':<28}{'lengths':<10}{'δ':>5}{'scale':>10}{'cosine':>10}{'bias':>10}{'variance':>10}")
    for r in rows:
        numbers = "".join(f"{x:10.4f}" for x in (r.scale, r.cosine, r.relative_bias, r.variance))
        print(f"{r.estimator:<28}{r.lengths:<10}{r.distance:>5}{numbers}")
    if options.json is not None:
        tables = {"facts": [f._asdict() for f in found], "estimators": [r._asdict() for r in rows]}
        write_text(options.json, json.dumps(tables, indent=1) + "\n")
    return 0


def facts(parts: Iterable[Callable[[], Iterator[Fact]]]) -> list[Fact]:
    """Every fact of some parts, in float64."""
    return list(chain.from_iterable(part() for part in parts))


# Means by enumeration


def mean(mdp: oracle.MDP, estimator: Any, logits: Any, behaviour: Any = None, batch: int = 1) -> np.ndarray:
    """E[ĝ] over every batch of a number of episodes, without groups."""
    sampler = None if behaviour is None else jax.nn.log_softmax(jnp.asarray(behaviour))
    sampling = oracle.Sampling(sampler, batch_size=batch)
    return np.asarray(oracle.moments(mdp, estimator, jax.nn.log_softmax, jnp.asarray(logits), sampling).mean)


def mean_of_credit(mdp: oracle.MDP, credit: Any, logits: np.ndarray, size: int) -> np.ndarray:
    """E[ĝ] of credit × score over every batch of episodes that form one group."""
    rollouts, log_probs = oracle.list_rollouts(mdp, Config()), jax.nn.log_softmax(jnp.asarray(logits))
    batches = oracle.list_batches(mdp, rollouts, log_probs, size)
    rows = oracle.as_rows(mdp, rollouts, log_probs)

    @jax.jit
    @jax.vmap
    def psi(members: Array) -> Array:
        reward, mask, ended = (x[:, members] for x in (rows.reward, rows.mask, rows.terminated))
        return credit(make_signals(reward, mask=mask, terminated=ended)) * mask

    each = np.asarray(psi(jnp.asarray(batches.members)))  # [B, T, N]
    state, action = rollouts.state, rollouts.action
    scores = np.zeros((*state.shape, *logits.shape))
    steps, columns = np.indices(state.shape)
    scores[steps, columns, state] = np.eye(logits.shape[1])[action] - np.exp(np.asarray(log_probs))[state]
    # Sum the credit of every batch by episode.
    given = np.zeros((len(state), state.shape[1]))
    for n in range(size):
        weighted = batches.probability[:, None] * each[:, :, n]
        np.add.at(given.T, batches.members[:, n], weighted / size)
    return np.einsum("tm,tmsa->sa", given, scores).ravel()


def gradient(mdp: oracle.MDP, logits: Any) -> np.ndarray:
    """∇J."""
    return np.ravel(oracle.exact_gradient(mdp, jax.nn.log_softmax, jnp.asarray(logits)))


def mean_of_groups(credit: Any, groups: int, size: int) -> np.ndarray:
    """E[ĝ] of credit × score, [prompts, answers], over every batch of groups of the two prompts."""
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(PROMPT_LOGITS)))
    rollouts = oracle.list_rollouts(PROMPTS, Config())
    batches = oracle.list_batches(PROMPTS, rollouts, log_probs, groups * size, size)
    state, action = rollouts.state[0], rollouts.action[0]
    reward = PROMPTS.reward[state, action][batches.members]  # [B, N]
    group = jnp.arange(groups * size) // size
    psi = jax.vmap(lambda r: credit(make_signals(r[None], group=group))[0])(jnp.asarray(reward))
    scores = np.zeros((len(state), 2, 2))
    scores[np.arange(len(state)), state] = np.eye(2)[action] - np.exp(log_probs)[state]
    return np.einsum("b,bn,bnsa->sa", batches.probability, np.asarray(psi), scores[batches.members]) / (groups * size)


def trajectory_mean(mdp: oracle.MDP, value: Callable[[Any, Array], Array], logits: Any) -> tuple[float, np.ndarray]:
    """E[Σ_t x_t] and E[Σ_t ∇x_t] on on-policy episodes, x = value(signals, log_ratio) with a reference policy."""
    theta = jnp.asarray(logits)
    listed = oracle.enumerate_trajectories(mdp)
    agent = oracle.mdp_agent(jax.nn.log_softmax)
    rows = oracle.as_transition(mdp, listed, jax.nn.log_softmax(theta))
    reference = oracle.as_transition(mdp, listed, jax.nn.log_softmax(jnp.asarray(REFERENCE))).log_prob
    signals = oracle.as_signals(mdp, listed, rows, agent, theta)._replace(reference_log_prob=reference)
    chance = oracle.trajectory_probability(mdp, listed, jax.nn.log_softmax(theta))

    def total(theta: Array) -> Array:
        log_prob = agent.policy(theta, rows.observation).log_prob(rows.action)
        x = value(signals, jnp.where(rows.mask > 0, log_prob - rows.log_prob, 0.0))
        return chance @ jnp.sum(jnp.where(rows.mask > 0, x, 0.0), axis=0)

    found, slope = jax.value_and_grad(total)(theta)
    return float(found), np.ravel(slope)


def scale_and_cosine(found: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """⟨ḡ, ∇J⟩/‖∇J‖² and the cosine."""
    inner = float(found.ravel() @ target.ravel())
    return inner / float(np.sum(target**2)), inner / float(np.linalg.norm(found) * np.linalg.norm(target))


# The estimators of the recipes


class Row(NamedTuple):
    """Exact moments of an estimator on batches of two."""

    estimator: str
    lengths: str
    distance: float
    scale: float
    cosine: float
    relative_bias: float
    variance: float


PROBLEMS = {"varying": TWO_STATES, "fixed": ALWAYS_TWO_STEPS}
RANGES = {"clip_low": 0.2, "clip_high": 0.28}
ESTIMATORS: dict[str, Any] = {
    **{name: ALGORITHMS[name]() for name in ("grpo", "dr_grpo", "dapo")},
    **{name: ALGORITHMS[name](**RANGES) for name in ("gspo", "gspo_token", "cispo")},
    **{name: ALGORITHMS[name]() for name in ("reinforce_pp", "delightful", "dual_clip", "awr", "vmpo", "rloo", "ppo")},
}
"""The recipes, GSPO with the ranges of DAPO."""
SAMPLER_IS = "sampler_is, first pass"
DISTANCES = (0.0, 0.1, 0.5)
AWAY = np.array([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])


def estimator_rows() -> list[Row]:
    """Every estimator on both problems at every distance."""
    return [estimator_row(e, p, d) for e in (*ESTIMATORS, SAMPLER_IS) for p in PROBLEMS for d in DISTANCES]


def estimator_row(name: str, lengths: str, distance: float) -> Row:
    """One estimator for a policy that differs by δ in every logit from the one that sampled.

    In its first pass `sampler_is` has the ratio π_θ/π_learner = 1 and the weight min(π_learner/π_sampler, C). It is
    then the estimator of CISPO with the bound C = 2.
    """
    mdp, sampler = PROBLEMS[lengths], jnp.asarray(THETA)
    theta = sampler + distance * AWAY
    if name == SAMPLER_IS:
        estimator = product(ALGORITHMS["dr_grpo"]().algorithm.estimator.credit, Partial(clipped_weight, clip_high=1.0))
    else:
        estimator = ESTIMATORS[name].algorithm.estimator
    behaviour = jax.nn.log_softmax(sampler)
    values = oracle.exact_values(mdp, behaviour)
    sampling = oracle.Sampling(behaviour, values.value, values.action_value, batch_size=2)
    exact = oracle.moments(mdp, estimator, jax.nn.log_softmax, theta, sampling)
    found, target = np.asarray(exact.mean), gradient(mdp, theta)
    bias = norm(found - target) / norm(target)
    return Row(name, lengths, distance, *scale_and_cosine(found, target), bias, 2 * float(exact.variance))


# Group and batch


def group_std() -> Iterator[Fact]:
    """Rewards 0 and 1: the mean is w_G(p) ∇p, with w = 1 for G = 2 and 1/√(p(1−p)) = d/dp 2 arcsin √p as G → ∞."""
    for size, p in ((2, 0.2), (4, 0.2), (8, 0.2), (8, 0.5)):
        logits = np.log([[p, 1 - p]])
        found = mean_of_credit(ONE_PROMPT, group_standardised, logits, size)
        scale, _ = scale_and_cosine(found, gradient(ONE_PROMPT, logits))
        yield Fact("group's std", f"weight of ∇p, G = {size}, p = {p}", scale, weight_of_group(size, p))
    yield Fact("group's std", "the same as G → ∞ (objective 2 arcsin √p), p = 0.2", weight_of_group(2000, 0.2))
    yield Fact("group's std", "1/√(p (1 − p)), p = 0.2", 1 / math.sqrt(0.2 * 0.8))


def weight_of_group(size: int, p: float) -> float:
    """E[σ_k²/(σ_k + floor)] / (p (1 − p)) with σ_k² = k (G − k)/G², k ~ Binomial(G, p)."""
    k = np.arange(1, size)
    std = np.sqrt(k * (size - k)) / size
    return float(np.sum(binomial(size, p)[1:size] * std**2 / (std + FLOOR)) / (p * (1 - p)))


def binomial(n: int, p: float) -> np.ndarray:
    """Probabilities of 0, …, n successes."""
    log = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    k = np.arange(n + 1)
    return np.exp(np.array(log) + k * math.log(p) + (n - k) * math.log1p(-p))


def group_mean() -> Iterator[Fact]:
    """R − mean of the group: (1 − 1/G) ∇J."""
    target = gradient(TWO_STATES, THETA)
    for size in (2, 3):
        found = mean_of_credit(TWO_STATES, baselined(total_return, baselines.same_batch_mean), THETA, size)
        scale, cosine = scale_and_cosine(found, target)
        yield Fact("group's mean", f"scale, G = {size}", scale, 1 - 1 / size)
        yield Fact("group's mean", f"cosine with ∇J, G = {size}", cosine, 1.0)


def own_lengths() -> Iterator[Fact]:
    """(R − mean)/|o|: (1 − 1/G) (∇E[R/L] − J ∇E[1/L]), not a multiple of ∇J; divided by T: a scale."""
    credit, size, target = baselined(total_return, baselines.same_batch_mean), 2, gradient(TWO_STATES, THETA)
    per_step = (1 - 1 / size) * mean_per_step_gradient(TWO_STATES, THETA)
    expected = {"own length": per_step, "T": (1 - 1 / size) / TWO_STATES.horizon * target}
    for name, length in (("own length", own_length), ("group's mean length", mean_length), ("T", longest_length)):
        found = mean_of_credit(TWO_STATES, divided(credit, length), THETA, size)
        closed = scale_and_cosine(expected[name], target) if name in expected else (None, None)
        scale, cosine = scale_and_cosine(found, target)
        yield Fact("length", f"÷ {name}: scale", scale, closed[0])
        yield Fact("length", f"÷ {name}: cosine with ∇J", cosine, closed[1])
        if name in expected:
            yield Fact("length", f"÷ {name}: ‖mean − closed form‖", norm(found - expected[name]), 0.0)


def mean_per_step_gradient(mdp: oracle.MDP, logits: np.ndarray) -> np.ndarray:
    """∇E[R/L] − J ∇E[1/L] from the probabilities of trajectories."""
    listed = oracle.enumerate_trajectories(mdp)
    length = listed.mask.sum(0)
    total = (mdp.reward[listed.state, listed.action] * listed.mask).sum(0)

    def chances(theta: Array) -> Array:
        return oracle.trajectory_probability(mdp, listed, jax.nn.log_softmax(theta))

    theta = jnp.asarray(logits)
    expected = float(chances(theta) @ total)
    return np.ravel(jax.grad(lambda theta: chances(theta) @ ((total - expected) / length))(theta))


def global_std() -> Iterator[Fact]:
    """Two prompts, two groups per batch: the mean is Σ_q d_q w_q ∇p_q; the unbiased gradient has equal w_q."""
    p = np.exp(np.asarray(jax.nn.log_softmax(jnp.asarray(PROMPT_LOGITS))))[:, 0]
    slope = p * (1 - p)
    for name, credit in (("global mean and std", standardised(total_return)), ("group's own", group_standardised)):
        found = mean_of_groups(credit, groups=2, size=4)
        for q in (0, 1):
            closed = weight_of_batch(p, q, 4) if name.startswith("global") else weight_of_group(4, p[q])
            weight = float(found[q, 0] / (0.5 * slope[q]))
            yield Fact("std over prompts", f"{name}: weight of the prompt with p = {p[q]:.2f}, G = 4", weight, closed)


def weight_of_batch(p: np.ndarray, q: int, size: int) -> float:
    """E[A | success] − E[A | failure] of prompt q, over the successes in its own group and in the other one."""
    another = 0.5 * (binomial(size, p[0]) + binomial(size, p[1]))
    rest = np.convolve(binomial(size - 1, p[q]), another)  # successes among the others
    count, m = 2 * size, np.arange(2 * size + 1)
    std = np.sqrt(m * (count - m)) / count
    success = np.where(std > 0, (1 - m / count) / (std + FLOOR), 0.0)
    failure = np.where(std > 0, -m / count / (std + FLOOR), 0.0)
    return float(rest @ (success[1:] - failure[:-1]))


def dynamic_sampling() -> Iterator[Fact]:
    """Groups are kept with p = E_q[1 − p_q^G − (1 − p_q)^G]: scale (1 − (1 − p)^K)/p, same direction."""
    p = np.exp(np.asarray(jax.nn.log_softmax(jnp.asarray(PROMPT_LOGITS))))[:, 0]
    kept = float(np.mean(1 - p**2 - (1 - p) ** 2))
    for groups in (1, 2, 3):
        without = mean_of_groups(group_standardised, groups, 2)
        scale, cosine = scale_and_cosine(mean_of_groups(dynamically_sampled(group_standardised), groups, 2), without)
        closed = (1 - (1 - kept) ** groups) / kept
        yield Fact("dynamic sampling", f"scale against the mean without it, K = {groups} groups", scale, closed)
        yield Fact("dynamic sampling", f"cosine with it, K = {groups}", cosine, 1.0)
    yield Fact("dynamic sampling", "scale if batches are refilled, 1/p", 1 / kept)


# Ratios


def clipping() -> Iterator[Fact]:
    """Three equally likely arms and a step of length δ along rewards; A = R − J(θ̄): the bias is the clipped part."""
    behaviour, eps, reward = np.zeros((1, 3)), 0.2, ARMS.reward[0]
    advantage = reward - reward.mean()
    estimator = product(
        baselined(total_return, Partial(baselines.constant, baseline_constant=float(reward.mean()))),
        Partial(clipped_between, clip_low=eps, clip_high=eps),
    )
    for delta in (0.2, 0.4, 0.6, 1.0):
        logits = behaviour + delta * reward
        found, target = mean(ARMS, estimator, logits, behaviour), gradient(ARMS, logits)
        pi = np.exp(logits[0]) / np.exp(logits).sum()
        ratio = 3 * pi
        clipped = ((advantage > 0) & (ratio > 1 + eps)) | ((advantage < 0) & (ratio < 1 - eps))
        missing = np.sum([clipped[a] * pi[a] * advantage[a] * (np.eye(3)[a] - pi) for a in range(3)], axis=0)
        ratios = ", ".join(f"{x:.2f}" for x in ratio)
        what = f"relative bias, δ = {delta}: ρ = {ratios}; {clipped.sum()} clipped"
        yield Fact("clipping, ε = 0.2", what, norm(found - target) / norm(target), norm(missing) / norm(target))


def sequence_ratio() -> Iterator[Fact]:
    """E[s] = (Σ_a μ^{1−1/T} π^{1/T})^T < 1 = E[ρ_{1:T}] for T > 1 steps in one state, and the bias of s as a weight.

    With varying lengths E[s] may exceed 1. Example: μ = (1/4, 3/4), π = (1/2, 1/2). The first action ends the episode,
    and the second one leads to one more step of ratio 1. Then E[s] = 1/2 + 3/4 · √(2/3) = 1.112.
    """
    s = np.exp(np.log([0.5 / 0.25, 0.5 / 0.75]) / [1, 2])
    yield Fact(
        "sequence ratio",
        "E[s] of episodes of one and two steps",
        float(s @ [0.25, 0.75]),
        0.5 + 0.75 * math.sqrt(2 / 3),
    )
    behaviour, steps = np.array([[0.0, 0.0]]), FIXED.horizon
    for delta in (0.2, 1.0):
        logits = behaviour + np.array([[delta, 0.0]])
        listed = oracle.enumerate_trajectories(FIXED)
        mu, pi = (jax.nn.log_softmax(jnp.asarray(x)) for x in (behaviour, logits))
        rows = oracle.as_transition(FIXED, listed, mu)
        log_ratio = oracle.as_transition(FIXED, listed, pi).log_prob - rows.log_prob
        continues = rows.mask * ~rows.terminated
        chance = oracle.trajectory_probability(FIXED, listed, mu)
        found = float(chance @ jnp.exp(log_mean_ratio(log_ratio, continues))[0])
        closed = float(jnp.sum(jnp.exp(mu * (1 - 1 / steps) + pi / steps)) ** steps)
        yield Fact("sequence ratio", f"E[s], δ = {delta}", found, closed)
        yield Fact("sequence ratio", f"E[ρ_1:T], δ = {delta}", float(chance @ jnp.exp(log_ratio.sum(0))), 1.0)
        target = gradient(FIXED, logits)
        for name, surrogate in (("s", unclipped_sequence_ratio), ("ρ_1:T", trajectory_weight)):
            own = mean(FIXED, product(total_return, surrogate), logits, behaviour)
            relative = float(np.linalg.norm(own - target) / np.linalg.norm(target))
            closed = 0.0 if surrogate is trajectory_weight else None
            yield Fact("sequence ratio", f"relative bias of return × {name}, δ = {delta}", relative, closed)


def unclipped_sequence_ratio(log_ratio: Array, credit: Array, continues: Array) -> Array:
    """GSPO's surrogate without a clip."""
    return jnp.exp(log_mean_ratio(log_ratio, continues)) * credit


# KL to a reference policy


def kl(one: Array, other: Array) -> Array:
    """KL between the rows of two tables of logits, [S]."""
    log_p, log_q = jax.nn.log_softmax(one), jax.nn.log_softmax(other)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def visits() -> np.ndarray:
    """Expected visits Σ_t d_t(s) of on-policy episodes, [S]."""
    values = oracle.exact_values(TWO_STATES, jax.nn.log_softmax(jnp.asarray(THETA)))
    return np.asarray(values.state_law).sum(0)


def kl_values() -> Iterator[Fact]:
    """As values: k1 and k3 are unbiased for the episode's KL(π ‖ π_ref); k2 is biased."""
    exact = float(visits() @ np.asarray(kl(jnp.asarray(THETA), jnp.asarray(REFERENCE))))
    for name, estimate in ESTIMATES.items():
        found, _ = trajectory_mean(TWO_STATES, lambda s, x, k=estimate: k(log_to_reference(s, x)), THETA)
        yield Fact("k as value", f"E[Σ {name}] of an episode", found, None if name == "k2" else exact)
    yield Fact("k as value", "KL(π ‖ π_ref) of an episode", exact)


def kl_losses() -> Iterator[Fact]:
    """As losses at visited states: k1 gives 0, k2 gives ∇KL(π ‖ π_ref), k3 gives ∇KL(π_ref ‖ π)."""
    expected_visits, theta, reference = jnp.asarray(visits()), jnp.asarray(THETA), jnp.asarray(REFERENCE)
    expected = {
        "k1": ("0", jnp.zeros_like(theta)),
        "k2": ("‖Σ d ∇KL(π ‖ π_ref)‖", jax.grad(lambda x: expected_visits @ kl(x, reference))(theta)),
        "k3": ("‖Σ d ∇KL(π_ref ‖ π)‖", jax.grad(lambda x: expected_visits @ kl(reference, x))(theta)),
    }
    for name, (what, target) in expected.items():
        _, found = trajectory_mean(TWO_STATES, lambda s, x, k=ESTIMATES[name]: k(log_to_reference(s, x)), THETA)
        yield Fact("k as loss", f"‖mean gradient of {name}‖ = {what}", *map(norm, (found, target)))
        yield Fact("k as loss", f"‖mean gradient of {name} − that‖", norm(found - np.ravel(target)), 0.0)
    forward, backward = expected["k2"][1], expected["k3"][1]
    yield Fact("k as loss", "cosine of the two directions", scale_and_cosine(np.ravel(forward), np.ravel(backward))[1])


def kl_rewards() -> Iterator[Fact]:
    """In the reward, without gradient, as reward-to-go: k1 gives the gradient of the episode's KL; k2 and k3 do not."""

    def whole(theta: Array) -> Array:
        expected_visits = oracle.exact_values(TWO_STATES, jax.nn.log_softmax(theta)).state_law.sum(0)
        return expected_visits @ kl(theta, jnp.asarray(REFERENCE))

    target = np.ravel(jax.grad(whole)(jnp.asarray(THETA)))
    for name, estimate in ESTIMATES.items():

        def value(signals: Any, x: Array, k: Any = estimate) -> Array:
            reward = k(log_to_reference(signals, jnp.zeros_like(x)))
            return score(x, reward_to_go(signals._replace(reward=reward * signals.mask)), signals.continues)

        _, found = trajectory_mean(TWO_STATES, value, THETA)
        relative = norm(found - target) / norm(target)
        closed = 0.0 if name == "k1" else None
        yield Fact("k in the reward", f"{name}: relative distance from ∇KL of an episode", relative, closed)
    for name in ("k2", "k3"):
        _, found = trajectory_mean(TWO_STATES, lambda s, x, k=ESTIMATES[name]: k(log_to_reference(s, x)), THETA)
        yield Fact("k in the reward", f"{name} as loss: the same distance", norm(found - target) / norm(target))


def norm(x: Any) -> float:
    """Euclidean."""
    return float(np.linalg.norm(np.ravel(x)))


PARTS = (
    *(group_std, group_mean, own_lengths, global_std, clipping, dynamic_sampling, sequence_ratio),
    *(kl_values, kl_losses, kl_rewards),
)
QUICK = (group_mean, kl_values)

if __name__ == "__main__":
    as_script(main, Options, __doc__)
