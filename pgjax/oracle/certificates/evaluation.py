"""Evaluation of a loss on every batch of a problem: the estimate −∇_θ loss, and the probability of the batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from pgjax.oracle.certificates.arrays import DIFFERENTIATED, PER_TRAJECTORY, Data, batch_arrays, padding_filler
from pgjax.oracle.certificates.batches import Batches, batch_probability
from pgjax.oracle.certificates.chain_rule import log_softmax, logit_gradient
from pgjax.oracle.certificates.credits import SIGNAL_ARRAYS
from pgjax.oracle.certificates.frameworks import Loss
from pgjax.oracle.certificates.layouts import Packing, pack, packings, unpack
from pgjax.oracle.certificates.precision import FLOAT64, Precision, precision_of
from pgjax.oracle.certificates.problems import Problem
from pgjax.types import SettingError


class Case(NamedTuple):
    """A loss on one problem: its batches, their layout, and the precision of the loss."""

    loss: Loss
    problem: Problem
    batches: Batches
    layout: str
    pad_to: str
    precision: Precision = FLOAT64

    def at(self, distance: float) -> np.ndarray:
        """Logits of the behaviour policy at a distance from the policy."""
        return self.problem.logits - distance * self.problem.direction


class Estimates(NamedTuple):
    """Estimates of every batch."""

    gradient: np.ndarray  # ĝ = −∇loss in the flattened logits, [B, P]
    value: np.ndarray  # value of the loss, [B]
    probability: np.ndarray  # probability of the batch, [B]

    @property
    def mean(self) -> np.ndarray:
        """ḡ = Σ_b P(b) ĝ(b), [P]."""
        return self.probability @ self.gradient

    @property
    def size(self) -> float:
        """Largest absolute component of an estimate; rounding errors are judged relative to it."""
        return float(np.abs(self.gradient).max())

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of ĝ over batches, [P, P]."""
        deviation = self.gradient - self.mean
        return (deviation * self.probability[:, None]).T @ deviation


def estimates(
    case: Case,
    logits: np.ndarray,
    behaviour: np.ndarray,
    *,
    change: Callable[[Data], Data] | None = None,
    filler: float | None = None,
    check: bool = True,
) -> Estimates:
    """Compute the estimate of every batch for a policy θ and a behaviour policy θ̄, both logits [S, A].

    `change` is applied to the data before credits are computed. `filler` is the size of the numbers written on padding,
    default 0. `check` raises a SettingError for a loss or gradient that is not finite.
    """
    data = case_data(case, logits, behaviour, change)
    values, slope = slopes(case, data, filler=filler)
    with np.errstate(invalid="ignore", over="ignore"):
        gradient = -logit_gradient(slope, data.state, logits)
    if check:
        _check_finite(case, data, values, gradient)
    return Estimates(gradient, values, batch_probability(case.problem, case.batches, log_softmax(behaviour)))


def case_data(
    case: Case, logits: np.ndarray, behaviour: np.ndarray, change: Callable[[Data], Data] | None = None
) -> Data:
    """The arrays that the loss takes, by name, and its credits, by parameter, computed after `change`."""
    named = [source for source in case.loss.sources.values() if isinstance(source, str)]
    wanted = dict.fromkeys([*named, *(SIGNAL_ARRAYS if case.loss.credits else ())])
    data = batch_arrays(case.problem, case.batches, logits, behaviour, wanted)
    data = data if change is None else change(data)
    return data._replace(credits={p: program(data) for p, program in case.loss.credits.items()})


def slopes(case: Case, data: Data, *, filler: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values [B] of the loss, and its slopes in log π(a|s_t), [B, T + 1, N, A], with padding in the last row.

    A slope in `log_prob` is a slope in log π of the taken action.
    """
    count, horizon, size = data.mask.shape
    actions = case.problem.mdp.reward.shape[1]
    values, slope = np.zeros(count), np.zeros((count, horizon, size, actions))
    taken = np.eye(actions)[data.action]
    for packing in packings(data.mask[:, :-1], case.layout, case.pad_to):
        packed = _packed(case.loss, packing, data, filler, actions)
        values[packing.rows], found = case.loss.evaluate(packed)
        for parameter, each in found.items():
            back = unpack(packing, each, (horizon, size))
            if case.loss.sources[parameter] == DIFFERENTIATED[0]:
                back = np.where(taken[packing.rows] > 0, back[..., None], 0.0)  # `where`, since 0 · NaN is NaN
            slope[packing.rows] += back
    return values, slope


def _packed(
    loss: Loss, packing: Packing, data: Data, filler: float | None = None, actions: int = 0
) -> dict[str, np.ndarray]:
    """Every array in the layout, by parameter."""

    def one(parameter: str) -> np.ndarray:
        source = loss.sources[parameter]
        array = data.arrays[source] if isinstance(source, str) else data.credits[parameter]
        name = source if isinstance(source, str) else ""
        fill = None if filler is None or name in PER_TRAJECTORY else padding_filler(name, filler, actions)
        return pack(packing, name, array, fill)

    return {parameter: one(parameter) for parameter in loss.sources}


def _check_finite(case: Case, data: Data, values: np.ndarray, gradient: np.ndarray) -> None:
    bad = ~(np.isfinite(values) & np.isfinite(gradient).all(-1))
    if bad.any():
        b = int(np.flatnonzero(bad)[0])
        reward = case.problem.mdp.reward[data.state[b], data.action[b]] * data.mask[b]
        returns, lengths = reward.sum(0).round(3).tolist(), data.mask[b].sum(0).astype(int).tolist()
        what = "loss" if not np.isfinite(values[b]) else "gradient"
        single = "; a batch of 1 trajectory has no others for a baseline" if case.problem.batch_size == 1 else ""
        reason = (
            f"has a {what} that is not finite on {int(bad.sum())} of {len(bad)} batches of {case.problem.name!r}, "
            f"such as returns {returns}, lengths {lengths}: guard its divisions and logarithms{single}"
        )
        raise SettingError("loss", case.loss.name, reason)


def check_repeatable(case: Case) -> np.ndarray:
    """Values of the loss on eight of the longest batches; a SettingError if a second, newly traced run differs.

    Credits are compared too.
    """
    members = case.batches.members
    longest = case.batches.rollouts.mask.sum(0)[members].max(-1)
    few = np.argsort(longest, kind="stable")[-8:]
    data = case_data(
        case._replace(batches=case.batches._replace(members=members[few])), case.problem.logits, case.at(0.3)
    )
    packed = _packed(case.loss, packings(data.mask[:, :-1], case.layout, case.pad_to)[-1], data)
    with np.errstate(invalid="ignore", over="ignore"):
        credits_again = {p: program(data) for p, program in case.loss.credits_again.items()}
        first, second = (case.loss.evaluate(packed), data.credits), (case.loss.again(packed), credits_again)
        tolerance = precision_of(first[0][0]).rounding
        same = [
            np.allclose(a, b, rtol=tolerance, atol=tolerance / 1000 * np.abs(a).max(initial=0.0), equal_nan=True)
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        ]
    if not all(same):
        reason = (
            f"returns a different result when called again on the same batch (of {case.problem.name!r}): "
            "remove randomness and side effects"
        )
        raise SettingError("loss", case.loss.name, reason)
    return first[0][0]
