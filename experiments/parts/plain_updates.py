"""One update of every method in NumPy, as loops over single steps. It does not import pgjax.

The policy is a softmax over a table θ[s, a]; the critic is a table V[s] or Q[s, a]. Scores are written by hand:

    ∇ log π(a|s) = e_a − π(·|s)   in row s of θ, 0 in all other rows.

With `FEATURES`, logits are θ[s] · φ(a) and scores φ(a) − Σ_b π(b|s) φ(b). Actions that `ALLOWED` forbids have π = 0.

A batch is a list of `Steps` without padding, one per trajectory or, in a stream, per environment. `update` returns the
new tables. `episodes` and `streams` list all outcomes of a tabular problem with their probabilities. A problem has the
attributes initial [S], transition [S, A, S] (missing mass ends the episode), reward [S, A], horizon and discount.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

Table = np.ndarray
Rows = list[tuple[int, int]]  # (trajectory, step)


@dataclass(frozen=True)
class Steps:
    """Steps of one trajectory, or of one environment of a stream; lists of equal length."""

    states: tuple = ()
    actions: tuple = ()
    rewards: tuple = ()
    terminated: tuple = ()
    truncated: tuple = ()
    next_states: tuple = ()  # before any reset; −1 after a termination
    times: tuple = ()  # step number in the episode

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.states)

    def then(self, *row: Any) -> "Steps":
        """Append a step, with values in the order of the fields."""
        return Steps(*((*column, x) for column, x in zip(vars(self).values(), row, strict=True)))

    def goes_on(self, t: int) -> bool:
        """Whether step t + 1 belongs to the same episode."""
        return t + 1 < len(self) and not (self.terminated[t] or self.truncated[t])


@dataclass(frozen=True)
class Method:
    """Everything that defines the update of a method."""

    credit: str = "reward_to_go"
    baseline: str = "none"
    surrogate: str = "score"
    target: str = "none"  # regression target of the critic
    discount: float = 1.0
    rate: float = 0.1  # of gradient descent
    max_grad_norm: float = np.inf
    mean: str = "trajectories"
    epochs: int = 1
    group_size: int = 1
    discounted_objective: bool = False
    standardise: bool = False
    baseline_constant: float = 0.0
    gae_lambda: float = 1.0
    max_rho: float = 1.0
    max_c: float = 1.0
    max_weight: float = np.inf
    clip: float = np.inf
    value_coefficient: float = 0.5
    value_clip: float | None = None
    kl_coefficient: float = 0.0
    target_kl: float = np.inf
    momentum: float | None = None
    policy_step: str = "none"  # natural or trust_region
    step_size: float = np.inf
    max_kl: float = np.inf
    damping: float = 0.0
    length: str = "none"  # divisor of the credit: own, mean (of the group), longest
    longest: int = 1
    dynamic_sampling: bool = False  # drop groups of equal returns
    weighting: str = "none"  # of the credit: exponential, better_half, delight, standardised
    temperature: float = 1.0
    temperature_bound: float = 0.1
    clip_low: float = np.inf
    clip_high: float = np.inf
    dual_clip: float = np.inf
    reference: tuple | None = None  # θ of the reference policy
    reference_kl: str = "none"  # k1, k2 or k3, followed by _loss or _reward
    reference_coefficient: float = 0.0
    reference_length: str = "none"  # divisor of the penalty in the loss
    sampler: tuple | None = None  # θ of the sampler, if it is not the learner
    max_mismatch: float = np.inf


@dataclass(frozen=True)
class Tables:
    """Parameters: θ, and V or Q, or no critic."""

    policy: Table
    value: Table = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def pi(self) -> Table:
        """π(a|s)."""
        return softmax(self.policy)

    def plus(self, scale: float, other: "Tables") -> "Tables":
        """self + scale · other."""
        return Tables(self.policy + scale * other.policy, self.value + scale * other.value)


@dataclass(frozen=True)
class Update:
    """New tables, sum of the directions of steps of size `rate`, and the last gradient (for recursive estimators)."""

    after: Tables
    direction: Tables
    gradient: Tables


METHODS: dict[str, Method] = {
    "reinforce": Method(),
    "trajectory_is": Method(surrogate="trajectory_weight"),
    "per_decision_is": Method("off_policy", surrogate="stopped_prefix"),
    "prefix_is": Method(surrogate="stopped_prefix"),
    "suffix_is": Method("off_policy", surrogate="ratio"),
    "first_order": Method(surrogate="ratio"),
    "truncated_is": Method("off_policy", surrogate="stopped_prefix", max_weight=2.0),
    "weighted_is": Method("weighted_trajectory"),
    "weighted_per_decision_is": Method("weighted_per_decision"),
    "doubly_robust": Method("none", surrogate="doubly_robust", target="reward_to_go"),
    "all_action": Method("none", surrogate="all_action", target="reward_to_go"),
    "rloo": Method("total_return", "leave_one_out"),
    "grpo": Method(
        "group_standardised",
        surrogate="clipped",
        length="own",
        clip=0.2,
        reference_kl="k3_loss",
        reference_length="own",
    ),
    "dr_grpo": Method("total_return", "same_batch_mean", surrogate="clipped", length="longest", clip=0.2),
    "dapo": Method(
        "group_standardised", surrogate="clipped", length="mean", clip_low=0.2, clip_high=0.28, dynamic_sampling=True
    ),
    "gspo": Method("group_standardised", surrogate="sequence", length="own", clip_low=3e-4, clip_high=4e-4),
    "gspo_token": Method("group_standardised", surrogate="sequence_token", length="own", clip_low=3e-4, clip_high=4e-4),
    "cispo": Method("group_standardised", surrogate="clipped_weight", length="mean", clip_low=1.0, clip_high=0.28),
    "sampler_is": Method("total_return", "same_batch_mean", surrogate="clipped", length="longest", clip=0.2),
    "reinforce_pp": Method(
        surrogate="clipped", mean="steps", weighting="standardised", clip=0.2, reference_kl="k1_reward"
    ),
    "delightful": Method("reward_to_go", "leave_one_out", weighting="delight"),
    "dice": Method("discounted_reward", surrogate="prefix_product"),
    "storm": Method("off_policy", surrogate="stopped_prefix", momentum=0.3),
    "a2c": Method("gae", target="lambda_return", mean="steps"),
    "ppo": Method("gae", surrogate="clipped", target="lambda_return", mean="steps", clip=0.2, gae_lambda=0.95),
    "dual_clip": Method(
        "gae", surrogate="clipped", target="lambda_return", mean="steps", clip=0.2, dual_clip=3.0, gae_lambda=0.95
    ),
    "awr": Method(
        "gae", target="lambda_return", mean="steps", weighting="exponential", max_weight=20.0, gae_lambda=0.95
    ),
    "vmpo": Method(
        "gae", target="lambda_return", mean="steps", weighting="better_half", kl_coefficient=1.0, gae_lambda=0.95
    ),
    "npg": Method("gae", surrogate="ratio", target="lambda_return", mean="steps", policy_step="natural"),
    "trpo": Method("gae", surrogate="ratio", target="lambda_return", mean="steps", policy_step="trust_region"),
    "vtrace": Method("vtrace", target="vtrace_target", mean="steps"),
}
"""Every method by name, as defined in the papers."""


FEATURES: Table | None = None
"""φ(a), [A, P], of a policy with logits θ[s] · φ(a), such as a product of softmaxes; None for logits θ[s, a]."""
ALLOWED: Table | None = None
"""1 where an action is allowed, [S, A]; None if all are."""


def softmax(theta: Table) -> Table:
    """π of a table of logits, row by row."""
    logits = theta if FEATURES is None else theta @ FEATURES.T
    return _normalised(logits if ALLOWED is None else np.where(ALLOWED > 0, logits, -np.inf))


def _normalised(logits: Table) -> Table:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


# Outcomes of a problem


def episodes(mdp: Any, theta: Table, *, time_limit: bool = False) -> list[tuple[float, Steps]]:
    """Every complete episode with its probability; at `horizon` it terminates, or with `time_limit` is truncated."""
    return list(_episodes(mdp, softmax(theta), time_limit))


def _episodes(mdp: Any, pi: Table, time_limit: bool) -> Iterator[tuple[float, Steps]]:
    open_ = [(p, s, Steps()) for s, p in enumerate(mdp.initial) if p > 0]
    while open_:
        chance, s, past = open_.pop()
        for p, steps, following, _ in _one_step(mdp, pi, s, past, len(past), time_limit):
            if following is None:
                yield chance * p, steps
            else:
                open_.append((chance * p, following, steps))


def streams(mdp: Any, theta: Table, steps: int, *, time_limit: bool = False) -> list[tuple[float, Steps]]:
    """All outcomes of a number of steps from a reset, where new episodes follow at once."""
    pi = softmax(theta)
    starts = [(p, s, 0) for s, p in enumerate(mdp.initial) if p > 0]
    partial = [(p, s, t, Steps()) for p, s, t in starts]
    for _ in range(steps):
        longer = []
        for chance, s, t, past in partial:
            for p, rows, following, time in _one_step(mdp, pi, s, past, t, time_limit):
                ahead = starts if following is None else [(1.0, following, time)]
                longer += [(chance * p * q, s2, t2, rows) for q, s2, t2 in ahead]
        partial = longer
    merged: dict[Steps, float] = {}
    for chance, _, _, rows in partial:  # the state after the last row does not matter
        merged[rows] = merged.get(rows, 0.0) + chance
    return [(chance, rows) for rows, chance in merged.items()]


def _one_step(mdp: Any, pi: Table, s: int, past: Steps, t: int, time_limit: bool) -> Iterator[tuple]:
    """(probability, rows with one more, next state or None at the end of the episode, its time)."""
    for a in np.flatnonzero(pi[s]):
        a = int(a)
        following, r = mdp.transition[s, a], float(mdp.reward[s, a])
        last = t + 1 == mdp.horizon
        stop = 1.0 - following.sum()
        if last and not time_limit:
            yield pi[s, a], past.then(s, a, r, True, False, -1, t), None, 0
            continue
        if stop > 1e-15:
            yield pi[s, a] * stop, past.then(s, a, r, True, False, -1, t), None, 0
        for s2, p in enumerate(following):
            if p > 0:
                yield pi[s, a] * p, past.then(s, a, r, False, last, s2, t), None if last else s2, t + 1


# One update


def update(
    m: Method,
    before: Tables,
    batch: Sequence[Steps],
    deals: Sequence[Sequence[Rows]] | None = None,
    previous: tuple[Tables, Tables] | None = None,
) -> Update:
    """The tables after one update on a batch that `before` has sampled.

    Args:
      m: the method.
      before: θ and critic that sampled the batch.
      batch: the trajectories.
      deals: minibatches of each pass, in order; default the whole batch once per pass.
      previous: for recursive estimators, tables and gradient of the previous update.
    """
    now, direction = before, Tables(0.0 * before.policy, 0.0 * before.value)
    gradient, stopped = direction, False
    if m.policy_step != "none":
        policy, way = _policy_step(m, before, batch)
        now, direction = Tables(policy, now.value), Tables(way, direction.value)
    for epoch in range(m.epochs):
        psi, target = _credit(m, now, before, batch), _target(m, now, before, batch)
        for rows in [all_rows(batch)] if deals is None else deals[epoch]:
            if m.policy_step == "none":
                gradient = _loss_gradient(m, now, before, batch, psi, target, rows)
            else:
                value = m.value_coefficient * _value_gradient(m, now, before, batch, target, rows)
                gradient = Tables(0.0 * now.policy, value)
            if m.momentum is not None and previous is not None:
                old, old_gradient = previous
                again = _loss_gradient(m, old, before, batch, _credit(m, old, before, batch), target, rows)
                carried = old_gradient.plus(-1.0, again)
                gradient = gradient.plus(1.0 - m.momentum, carried)
            stopped = stopped or _sampled_kl(now, before, batch, rows) > m.target_kl
            if stopped:
                continue
            norm = np.sqrt(np.sum(gradient.policy**2) + np.sum(gradient.value**2))
            shortened = min(1.0, m.max_grad_norm / norm) if norm > 0 else 1.0
            now = now.plus(-m.rate * shortened, gradient)
            direction = direction.plus(-shortened, gradient)
    return Update(now, direction, gradient)


def all_rows(batch: Sequence[Steps]) -> Rows:
    """All rows of the batch."""
    return [(n, t) for n, steps in enumerate(batch) for t in range(len(steps))]


def estimate(m: Method, tables: Tables, batch: Sequence[Steps]) -> Table:
    """The method's estimate of ∇J from a batch that `tables` has sampled, [S, A]."""
    plain = replace(m, momentum=None, epochs=1, rate=0.0, max_grad_norm=np.inf, policy_step="none", target_kl=np.inf)
    return update(plain, tables, batch).direction.policy


def _loss_gradient(
    m: Method, now: Tables, before: Tables, batch: Sequence[Steps], psi: list, target: list, rows: Rows
) -> Tables:
    """Gradient of −surrogate + β KL + c · value loss over some rows of the batch."""
    members = sorted({n for n, _ in rows})
    divisor = len(members) if m.mean == "trajectories" else len(rows)
    each = {n: _contributions(m, now, before, batch[n], psi[n]) for n in members}
    policy: Table = -np.sum([each[n][t] for n, t in rows], axis=0) / divisor
    if m.baseline.startswith("optimal"):
        policy = policy + _optimal_correction(m, now, before, batch, each, members) / divisor
    if m.kl_coefficient:
        for n, t in rows:
            s = batch[n].states[t]
            moved = now.pi[s] - before.pi[s]  # ∇ KL(π_before ‖ π) in the logits of s
            moved = moved if FEATURES is None else moved @ FEATURES
            policy[s] += m.kl_coefficient * moved / divisor
    if m.reference_kl.endswith("loss"):
        for n, t in rows:
            s, a = batch[n].states[t], batch[n].actions[t]
            x = _log_to_reference(m, now, s, a)
            slope = {"k1": 1.0, "k2": x, "k3": 1.0 - np.exp(-x)}[m.reference_kl[:2]]  # dk/dx
            length = _length(m, m.reference_length, n, batch)
            policy = policy + m.reference_coefficient * slope / length * _score(now.pi, s, a) / divisor
    value = m.value_coefficient * _value_gradient(m, now, before, batch, target, rows)
    return Tables(policy, value)


def _contributions(m: Method, now: Tables, before: Tables, steps: Steps, psi: list) -> list[Table]:
    """Gradient of each step's term of the surrogate, [S, A] each."""
    pi, rho = now.pi, _ratios(now, before, steps)
    result, prefix, past = [], 1.0, np.zeros_like(now.policy)
    whole = _over_episodes(steps, rho)
    sampler = None if m.sampler is None else softmax(np.array(m.sampler))
    low, high = (m.clip if np.isinf(x) else x for x in (m.clip_low, m.clip_high))
    for t, (s, a) in enumerate(zip(steps.states, steps.actions, strict=True)):
        if t > 0 and not steps.goes_on(t - 1):
            prefix, past = 1.0, np.zeros_like(now.policy)
        earlier, earlier_scores = prefix, past
        own = _score(pi, s, a)
        prefix, past = prefix * rho[t], past + own
        if m.surrogate == "score":
            g = psi[t] * own
        elif m.surrogate == "ratio":
            g = rho[t] * psi[t] * own
        elif m.surrogate == "clipped":
            outside = (psi[t] > 0 and rho[t] > 1 + high) or (psi[t] < 0 and rho[t] < 1 - low)
            outside = outside or (psi[t] < 0 and rho[t] > m.dual_clip)
            g = 0.0 * own if outside else rho[t] * psi[t] * own
        elif m.surrogate == "clipped_weight":
            g = min(max(rho[t], 1 - low), 1 + high) * psi[t] * own
        elif m.surrogate.startswith("sequence"):
            sequence = whole[t] ** (1.0 / len(steps))
            outside = (psi[t] > 0 and sequence > 1 + high) or (psi[t] < 0 and sequence < 1 - low)
            if m.surrogate == "sequence":
                own = sum(_score(pi, s, a) for s, a in zip(steps.states, steps.actions, strict=True)) / len(steps)
            g = 0.0 * own if outside else sequence * psi[t] * own
        elif m.surrogate == "stopped_prefix":
            g = min(prefix, m.max_weight) * psi[t] * own
        elif m.surrogate == "trajectory_weight":
            g = min(whole[t], m.max_weight) * psi[t] * own
        elif m.surrogate == "prefix_product":
            g = prefix * psi[t] * past
        elif m.surrogate == "all_action":
            factor = m.discount ** steps.times[t] if m.discounted_objective else 1.0
            g = factor * _expected_slope(pi, s, before.value)
        elif m.surrogate == "doubly_robust":
            q, factor = before.value, m.discount ** steps.times[t]
            expected = pi[s] @ q[s]
            g = earlier * (expected * earlier_scores + _expected_slope(pi, s, q))
            g = factor * (g + prefix * (steps.rewards[t] - q[s, a]) * past)
        else:
            raise ValueError(m.surrogate)
        if sampler is not None:
            g = min(before.pi[s, a] / sampler[s, a], m.max_mismatch) * g
        result.append(g)
    return result


def _log_to_reference(m: Method, tables: Tables, s: int, a: int) -> float:
    """log π(a|s) − log π_ref(a|s)."""
    return float(np.log(tables.pi[s, a] / softmax(np.array(m.reference))[s, a]))


def _score(pi: Table, s: int, a: int) -> Table:
    in_logits = np.zeros_like(pi)
    in_logits[s] = -pi[s]
    in_logits[s, a] += 1.0
    return in_logits if FEATURES is None else in_logits @ FEATURES


def _expected_slope(pi: Table, s: int, q: Table) -> Table:
    """∇ Σ_a π(a|s) q(s, a)."""
    return sum(pi[s, a] * q[s, a] * _score(pi, s, a) for a in range(pi.shape[1]))  # type: ignore


def _ratios(now: Tables, before: Tables, steps: Steps) -> list[float]:
    return [float(now.pi[s, a] / before.pi[s, a]) for s, a in zip(steps.states, steps.actions, strict=True)]


def _over_episodes(steps: Steps, factors: list[float]) -> list[float]:
    """For each step the product over the whole episode that contains it."""
    result, first = [], 0
    for t in range(len(steps)):
        if not steps.goes_on(t):
            result += [float(np.prod(factors[first : t + 1]))] * (t + 1 - first)
            first = t + 1
    return result


def _optimal_correction(
    m: Method, now: Tables, before: Tables, batch: Sequence[Steps], each: dict[int, list], members: list[int]
) -> Table:
    """Σ_n b_n G_n, with b_n from the other trajectories."""
    estimates = {n: sum(each[n]) for n in members}
    scores = {n: sum(_contributions(m, now, before, batch[n], [1.0] * len(batch[n]))) for n in members}
    result = np.zeros_like(now.policy)
    for n in members:
        inner, square = np.zeros_like(result), np.zeros_like(result)
        for k in members:
            if k != n:
                inner, square = inner + estimates[k] * scores[k], square + scores[k] ** 2
        if m.baseline == "optimal":
            inner, square = np.full_like(inner, inner.sum()), np.full_like(square, square.sum())
        b = np.divide(inner, square, out=np.zeros_like(inner), where=square > 0)
        result += b * scores[n]
    return result


# Credit


def _signals(m: Method, before: Tables, steps: Steps, prefactor: bool) -> tuple[list, list, list, float]:
    """Rewards, V(s_t), V(s_{t+1}) and γ; with `prefactor`, all three times γ^t, and γ = 1."""
    value = _state_values(before)
    rewards, values, following = [], [], []
    for t in range(len(steps)):
        factor = m.discount ** steps.times[t] if prefactor else 1.0
        ahead = 0.0 if steps.terminated[t] else value[steps.next_states[t]]
        reward = steps.rewards[t]
        if m.reference_kl.endswith("reward"):
            x = _log_to_reference(m, before, steps.states[t], steps.actions[t])
            k = {"k1": x, "k2": x**2 / 2, "k3": np.exp(-x) - 1.0 + x}[m.reference_kl[:2]]
            reward -= m.reference_coefficient * k
        rewards.append(factor * reward)
        values.append(factor * value[steps.states[t]])
        following.append(factor * (m.discount if prefactor else 1.0) * ahead)
    return rewards, values, following, 1.0 if prefactor else m.discount


def _state_values(tables: Tables) -> Table:
    if tables.value.ndim == 2:
        return np.sum(tables.pi * tables.value, axis=1)
    return tables.value if tables.value.size else np.zeros(len(tables.policy))


def _credit(m: Method, now: Tables, before: Tables, batch: Sequence[Steps]) -> list:
    """Ψ of every step, with ratios between `now` and `before`."""
    if m.credit == "none":
        return [[0.0] * len(steps) for steps in batch]
    if m.credit.startswith("weighted"):
        psi = _weighted(m, now, before, batch)
    else:
        psi = _minus_baseline(m, now, before, batch)
    if m.length != "none":
        psi = [[x / _length(m, m.length, n, batch) for x in row] for n, row in enumerate(psi)]
    if m.dynamic_sampling:
        psi = _of_groups_that_differ(m, before, batch, psi)
    psi = _weighed(m, now, batch, psi)
    return _standardised(psi) if m.standardise else psi


def _standardised(psi: list) -> list:
    flat = np.concatenate(psi)
    spread = np.sqrt(np.mean((flat - flat.mean()) ** 2))
    equal = spread <= 1e-13 * np.max(np.abs(flat))  # equal up to rounding
    return [[0.0 if equal else (x - flat.mean()) / (spread + 1e-8) for x in row] for row in psi]


def _group(m: Method, n: int, count: int) -> range:
    """Trajectories in the group of n; without groups the whole batch."""
    first = n // m.group_size * m.group_size
    return range(first, first + m.group_size) if m.group_size > 1 else range(count)


def _length(m: Method, which: str, n: int, batch: Sequence[Steps]) -> float:
    if which == "none":
        return 1.0
    if which == "longest":
        return float(m.longest)
    if which == "own":
        return float(len(batch[n]))
    return float(np.mean([len(batch[k]) for k in _group(m, n, len(batch))]))


def _returns(m: Method, before: Tables, batch: Sequence[Steps]) -> list[float]:
    """The discounted return of each trajectory."""
    signals = [_signals(m, before, steps, m.discounted_objective) for steps in batch]
    return [_credit_of_one(m, "total_return", s, of, [])[0] for s, of in zip(batch, signals, strict=True)]


def _differ(values: list[float]) -> bool:
    return max(values) - min(values) > 1e-12 * max(abs(x) for x in values)


def _of_groups_that_differ(m: Method, before: Tables, batch: Sequence[Steps], psi: list) -> list:
    """Credit of groups with different returns, rescaled for the dropped groups; 0 in groups of equal returns."""
    returns, count = _returns(m, before, batch), len(batch)
    kept = [_differ([returns[k] for k in _group(m, n, count)]) for n in range(count)]
    return [[x * count / sum(kept) if kept[n] else 0.0 for x in row] for n, row in enumerate(psi)]


def _weighed(m: Method, now: Tables, batch: Sequence[Steps], psi: list) -> list:
    """Credit after a weighting that depends on the credit."""
    if m.weighting == "none":
        return psi
    if m.weighting == "standardised":
        return _standardised(psi)
    if m.weighting == "exponential":
        return [[min(np.exp(x / m.temperature), m.max_weight) for x in row] for row in psi]
    if m.weighting == "delight":
        result = []
        for steps, row in zip(batch, psi, strict=True):
            surprisal = [-np.log(now.pi[s, a]) for s, a in zip(steps.states, steps.actions, strict=True)]
            result.append([x / (1.0 + np.exp(-x * u / m.temperature)) for x, u in zip(row, surprisal, strict=True)])
        return result
    flat = np.concatenate(psi)  # better_half
    least = np.sort(flat)[len(flat) // 2] - 1e-13 * np.max(np.abs(flat))  # larger half, rounded up
    best = flat[flat >= least]
    shares = _softmax_of_divergence(best - best.max(), m.temperature_bound)
    scale = len(flat) / np.sum(np.exp((best - best.max()) / shares))
    return [[float(scale * np.exp((x - best.max()) / shares)) if x >= least else 0.0 for x in row] for row in psi]


def _softmax_of_divergence(x: Table, bound: float) -> float:
    """η with KL(softmax(x/η) ‖ uniform) = bound, by bisection."""
    low, high = 1e-4 * -x.min(), 1e4 * -x.min()
    if not high > 0:
        return 1.0
    for _ in range(200):
        middle = np.sqrt(low * high)
        p = _normalised(x / middle)
        divergence = float(np.sum(p * np.log(np.maximum(p * len(x), 1e-300))))
        low, high = (middle, high) if divergence > bound else (low, middle)
    return float(np.sqrt(low * high))


def _minus_baseline(m: Method, now: Tables, before: Tables, batch: Sequence[Steps]) -> list:
    signals = [_signals(m, before, steps, m.discounted_objective) for steps in batch]
    psi = [
        _credit_of_one(m, m.credit, steps, of, _ratios(now, before, steps))
        for steps, of in zip(batch, signals, strict=True)
    ]
    if m.credit == "group_standardised":
        returns = _returns(m, before, batch)
        for n in range(len(psi)):
            own = [returns[k] for k in _group(m, n, len(batch))]
            relative = float((returns[n] - np.mean(own)) / (np.std(own) + 1e-8)) if _differ(own) else 0.0
            psi[n] = [relative] * len(psi[n])
    return [[x - b for x, b in zip(psi[n], _baseline(m, n, psi, batch, signals), strict=True)] for n in range(len(psi))]


def _credit_of_one(m: Method, credit: str, steps: Steps, signals: tuple, rho: list[float]) -> list[float]:
    rewards, values, following, gamma = signals
    length = len(steps)
    if credit == "discounted_reward":
        power = [1.0 if m.discounted_objective else m.discount**t for t in steps.times]
        return [p * r for p, r in zip(power, rewards, strict=True)]
    if credit in ("total_return", "group_standardised"):
        return [sum(gamma**t * r for t, r in zip(steps.times, rewards, strict=True))] * length
    result = [0.0] * length
    if credit in ("vtrace", "vtrace_target"):
        target = [0.0] * length
        for t in reversed(range(length)):
            error = rewards[t] + gamma * following[t] - values[t]
            target[t] = values[t] + min(m.max_rho, rho[t]) * error
            if steps.goes_on(t):
                ahead = target[t + 1] - values[t + 1]
                target[t] += gamma * m.gae_lambda * min(m.max_c, rho[t]) * ahead
            beyond = target[t + 1] if steps.goes_on(t) else following[t]
            result[t] = min(m.max_rho, rho[t]) * (rewards[t] + gamma * beyond - values[t])
        return target if credit == "vtrace_target" else result
    for t in reversed(range(length)):
        ahead = result[t + 1] if steps.goes_on(t) else 0.0
        if credit == "reward_to_go":
            result[t] = rewards[t] + gamma * ahead
        elif credit == "off_policy":
            result[t] = rewards[t] + gamma * (rho[t + 1] * ahead if steps.goes_on(t) else 0.0)
        elif credit == "gae":
            result[t] = rewards[t] + gamma * following[t] - values[t] + gamma * m.gae_lambda * ahead
        else:
            raise ValueError(credit)
    return result


def _baseline(m: Method, n: int, psi: list, batch: Sequence[Steps], signals: list) -> list[float]:
    """Baseline of trajectory n at each of its steps."""
    group = _group(m, n, len(psi))
    others = [k for k in group if k != n]
    result = []
    for t in range(len(psi[n])):

        def credit_at(k: int, t: int = t) -> float:
            """After the end of a trajectory: 0, or its total return."""
            return psi[k][t] if t < len(psi[k]) else psi[k][-1] if m.credit == "total_return" else 0.0

        if m.baseline in ("none", "optimal", "optimal_per_parameter"):
            result.append(0.0)
        elif m.baseline == "constant":
            result.append(m.baseline_constant)
        elif m.baseline == "state_value":
            result.append(signals[n][1][t])
        elif m.baseline == "same_batch_mean":
            result.append(sum(credit_at(k) for k in group) / len(group))
        elif m.baseline == "leave_one_out":
            result.append(sum(credit_at(k) for k in others) / max(len(others), 1))
        elif m.baseline == "time_step":
            running = [k for k in others if t < len(psi[k])]
            result.append(sum(psi[k][t] for k in running) / max(len(running), 1))
        else:
            raise ValueError(m.baseline)
    return result


def _weighted(m: Method, now: Tables, before: Tables, batch: Sequence[Steps]) -> list:
    """N times the factor of each score in the gradient of the self-normalised estimate of J."""
    rho = [_ratios(now, before, steps) for steps in batch]
    reward = [[m.discount**t * r for t, r in zip(s.times, s.rewards, strict=True)] for s in batch]
    count = len(batch)
    if m.credit == "weighted_trajectory":
        weight = [float(np.prod(x)) for x in rho]
        returns = [sum(x) for x in reward]
        mean = sum(w * r for w, r in zip(weight, returns, strict=True)) / sum(weight)
        factor = [w / sum(weight) * (r - mean) for w, r in zip(weight, returns, strict=True)]
        return [[count * factor[n]] * len(batch[n]) for n in range(count)]
    longest = max(len(steps) for steps in batch)
    psi = [[0.0] * len(steps) for steps in batch]
    for u in range(longest):  # reward at step u; after the end of a trajectory its weight stays and its reward is 0
        weight = [float(np.prod(x[: u + 1])) for x in rho]
        earned = [x[u] if u < len(x) else 0.0 for x in reward]
        mean = sum(w * r for w, r in zip(weight, earned, strict=True)) / sum(weight)
        for n in range(count):
            for t in range(min(u + 1, len(batch[n]))):
                psi[n][t] += count * weight[n] / sum(weight) * (earned[n] - mean)
    return psi


# The critic


def _target(m: Method, now: Tables, before: Tables, batch: Sequence[Steps]) -> list:
    """Regression target of the critic, never with the factor γ^t."""
    result = []
    for steps in batch:
        signals, rho = _signals(m, before, steps, prefactor=False), _ratios(now, before, steps)
        if m.target == "none":
            result.append([0.0] * len(steps))
        elif m.target == "lambda_return":
            advantage = _credit_of_one(m, "gae", steps, signals, rho)
            result.append([a + v for a, v in zip(advantage, signals[1], strict=True)])
        else:
            result.append(_credit_of_one(m, m.target, steps, signals, rho))
    return result


def _value_gradient(m: Method, now: Tables, before: Tables, batch: Sequence[Steps], target: list, rows: Rows) -> Table:
    """Gradient of the mean over steps of ½ (V(s_t) − target)²; for Q at the taken action."""
    result = np.zeros_like(now.value)
    if m.target == "none":
        return result
    for n, t in rows:
        s, a = batch[n].states[t], batch[n].actions[t]
        where = (s, a) if now.value.ndim == 2 else (s,)
        error = now.value[where] - target[n][t]
        slope = error
        if m.value_clip is not None:
            moved = now.value[where] - before.value[where]
            held = before.value[where] + np.clip(moved, -m.value_clip, m.value_clip) - target[n][t]
            if held**2 > error**2:
                slope = 0.0  # clipped: constant in V
        result[where] += slope / len(rows)
    return result


# Policy steps other than gradient descent


def _policy_step(m: Method, before: Tables, batch: Sequence[Steps]) -> tuple[Table, Table]:
    """θ after a natural or a trust-region step, and the direction (F + damping)⁻¹ g."""
    rows, theta = all_rows(batch), before.policy
    psi = _credit(m, before, before, batch)
    gradient = -_loss_gradient(replace(m, value_coefficient=0.0), before, before, batch, psi, psi, rows).policy
    fisher = np.zeros((theta.size, theta.size))
    for n, t in rows:
        s = batch[n].states[t]
        for a in range(before.pi.shape[1]):
            own = _score(before.pi, s, a).ravel()
            fisher += before.pi[s, a] * np.outer(own, own) / len(rows)
    damped = fisher + m.damping * np.eye(theta.size)
    x = np.linalg.solve(damped, gradient.ravel())
    curvature = x @ damped @ x
    length = min(m.step_size, np.sqrt(2.0 * m.max_kl / curvature)) if curvature > 0 else 0.0
    x = x.reshape(theta.shape)
    if m.policy_step == "natural":
        return theta + length * x, x
    divisor = len(batch) if m.mean == "trajectories" else len(rows)

    def surrogate(policy: Table) -> float:
        tried = Tables(policy)
        ratios = [_ratios(tried, before, steps) for steps in batch]
        return sum(ratios[n][t] * psi[n][t] for n, t in rows) / divisor

    for k in range(10):
        tried = theta + 0.7**k * length * x
        if _exact_kl(tried, before, batch, rows) <= m.max_kl and surrogate(tried) > surrogate(theta):
            return tried, x
    return theta, x


def _exact_kl(policy: Table, before: Tables, batch: Sequence[Steps], rows: Rows) -> float:
    """Mean KL(π_before ‖ π) over the visited states."""
    total, pi = 0.0, softmax(policy)
    for n, t in rows:
        old, new = (table[batch[n].states[t]] for table in (before.pi, pi))
        old, new = old[old > 0], new[old > 0]
        total += float(np.sum(old * np.log(old / new))) / len(rows)
    return total


def _sampled_kl(now: Tables, before: Tables, batch: Sequence[Steps], rows: Rows) -> float:
    """Mean of (ρ − 1) − log ρ over some rows."""
    rho = np.array([_ratios(now, before, batch[n])[t] for n, t in rows])
    return float(np.mean(rho - 1.0 - np.log(rho)))
