"""What a certificate says of a mean gradient: scale, cosine, error; the order of its bias; whether it is a gradient."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.evaluation import Case, Estimates, case_data, estimates, slopes
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient

ROUNDING = 1e-9
"""Relative differences below this are rounding: sums of a few hundred float64 products."""

SYMMETRIC = 1e-6
"""Asymmetries below this are errors of the differences that a Jacobian is made of (step 2e-3, fourth order)."""

DISTANCES = (0.0, *(0.8 / 2**k for k in range(9, -1, -1)))
SHOWN = (0.0, 0.1, 0.4, 0.8)
JACOBIAN_DISTANCE = 0.4
STEP = 2e-3
CLIP_GRID = np.linspace(-0.1, 1.5, 65)  # from the other side, so that a kink at 0 is seen: V-trace's, say
CLIP_JUMP = 1e-3
JUMP = 1e-6  # a bias that is larger than this, and rounding at half the distance, is no power of it
CLIP_BATCHES = 100


class Comparison(NamedTuple):
    """A mean gradient beside ∇J.

    Attributes:
      scale: c = ⟨ḡ, ∇J⟩ / ‖∇J‖²; None where ∇J is 0.
      cosine: of the two; None where either is 0.
      error: ‖ḡ − ∇J‖ / ‖∇J‖; None where ∇J is 0.
      note: which of the two is 0, in words.
    """

    scale: float | None
    cosine: float | None
    error: float | None
    note: str


def compare(mean: np.ndarray, gradient: np.ndarray, size: float = 1.0) -> Comparison:
    """Scale, cosine and error of ḡ against ∇J; 0 is said in words.

    Args:
      mean: ḡ, [P].
      gradient: ∇J, [P].
      size: of single estimates, beside which ḡ may be rounding.

    >>> compare(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    Comparison(scale=0.5, cosine=1.0, error=0.5, note='')
    >>> compare(np.zeros(2), np.array([2.0, -2.0])).note
    'the mean gradient is 0'
    """
    length, wanted = float(np.linalg.norm(mean)), float(np.linalg.norm(gradient))
    zero = length <= 1e-12 * max(size, wanted), wanted <= 1e-12 * max(size, length)
    if zero[1]:
        return Comparison(None, None, None, "∇J is 0" + (f", {BOTH_ZERO}" if zero[0] else ""))
    error = float(np.linalg.norm(mean - gradient)) / wanted
    scale = float(mean @ gradient) / wanted**2
    if zero[0]:
        return Comparison(0.0, None, error, "the mean gradient is 0")
    return Comparison(scale, min(1.0, max(-1.0, scale * wanted / length)), error, "")


class Row(NamedTuple):
    """A problem at one distance between policy and behaviour policy.

    Attributes:
      problem: its name.
      distance: δ = ‖θ − θ̄‖.
      ratios: the smallest and the largest π_θ/μ of a step.
      mean: ḡ = E[−∇loss], [P].
      gradient: ∇J of the certificate's objective, [P].
      scale: see Comparison.
      cosine: see Comparison.
      error: see Comparison.
      note: see Comparison.
      variance: trace of the covariance of a batch's estimate.
      mean_squared_error: E‖ĝ − ∇J‖² of a batch of N.
      loss: the mean of the loss itself.
    """

    problem: str
    distance: float
    ratios: tuple[float, float]
    mean: list[float]
    gradient: list[float]
    scale: float | None
    cosine: float | None
    error: float | None
    note: str
    variance: float
    mean_squared_error: float
    loss: float

    @property
    def mean_is_zero(self) -> bool:
        """Whether ḡ is 0 beside single estimates."""
        return self.note.endswith(BOTH_ZERO) or self.scale == 0.0


BOTH_ZERO = "and so is the mean gradient"


def make_row(case: Case, found: Estimates, distance: float, objective: Objective) -> Row:
    """Everything about one problem at one distance."""
    gradient = objective_gradient(case.problem, case.batches.rollouts, case.problem.logits, objective)
    mean, size = found.mean, float(np.abs(found.gradient).max())
    variance = float(np.trace(found.covariance))
    logs = log_softmax(case.problem.logits) - log_softmax(case.at(distance))
    return Row(
        case.problem.name,
        distance,
        (math.exp(logs.min()), math.exp(logs.max())),
        mean.tolist(),
        gradient.tolist(),
        *compare(mean, gradient, size),
        variance,
        variance + float(np.sum((mean - gradient) ** 2)),
        float(found.probability @ found.value),
    )


def choose_objective(on_policy: list[tuple[Case, Estimates]]) -> tuple[Objective, dict[Objective, float | None]]:
    """The objective along whose gradient the mean gradients lie best, and the largest error against each.

    By direction first, since a factor belongs to a step size; by error where directions are equally good. Errors are
    those on the problems where the objectives differ; None where none does.
    """
    misfit, errors = {}, {}
    gradients = [
        [objective_gradient(c.problem, c.batches.rollouts, c.problem.logits, o) for o in OBJECTIVES]
        for c, _ in on_policy
    ]
    differ = [not np.allclose(each[0], each, rtol=1e-9, atol=1e-12) for each in gradients]
    for i, objective in enumerate(OBJECTIVES):
        found = [compare(e.mean, g[i]) for (_, e), g in zip(on_policy, gradients, strict=True)]
        cosines = np.array([x.cosine for x in found if x.cosine is not None])
        turned = len(cosines) - abs(cosines.sum())  # a flipped sign is one on every problem
        far = sum(x.error for x in found if x.error is not None)
        known = [x.error for x, tells in zip(found, differ, strict=True) if tells and x.error is not None]
        errors[objective] = max(known, default=None)
        misfit[objective] = (round(turned, 9), round(far, 9))
    return min(OBJECTIVES, key=lambda o: misfit[o]), errors


class Order(NamedTuple):
    """How the bias grows with the distance to the behaviour policy.

    Attributes:
      problem: its name.
      order: None where there is no bias at any distance; 0 where it is there at distance 0, infinite where it begins
        with a jump, as clipping's does, else the log-log slope.
      scale: the scale at distance 0, which is taken out first.
      bias: ‖ḡ − scale · ∇J‖ / ‖∇J‖ at every distance.
    """

    problem: str
    order: float | None
    scale: float | None
    bias: list[float]


def order_of_bias(rows: list[Row]) -> Order:
    """The order of one problem's bias, from its rows sorted by distance, 0 first."""
    first, gradient = rows[0], np.array(rows[0].gradient)
    length = float(np.linalg.norm(gradient))
    if first.scale is None:
        return Order(first.problem, None, None, [])
    pure = first.cosine is not None and 1.0 - abs(first.cosine) < ROUNDING
    factor = first.scale if pure else 1.0
    bias = [float(np.linalg.norm(np.array(r.mean) - factor * gradient)) / length for r in rows]
    if bias[0] > 1e3 * ROUNDING:
        return Order(first.problem, 0.0, first.scale, bias)
    if max(bias) < ROUNDING:
        return Order(first.problem, None, first.scale, bias)
    seen = [(r.distance, b) for r, b in zip(rows, bias, strict=True) if r.distance > 0 and b > ROUNDING / 100]
    (near, small), (far, large) = (*seen, seen[-1])[:2]
    slope = math.log(large / small) / math.log(far / near) if far > near else math.inf
    begins = any(0 < r.distance < near for r in rows) and small > JUMP
    if begins or slope < 0.1:
        return Order(first.problem, math.inf, first.scale, bias)
    return Order(first.problem, round(slope) if abs(slope - round(slope)) < 0.1 else slope, first.scale, bias)


class Asymmetry(NamedTuple):
    """‖M − Mᵀ‖ / ‖M‖ of the Jacobian M of ḡ(θ), by central differences of fourth order.

    Attributes:
      problem: its name.
      following: with the behaviour policy following θ, μ = π_θ, as in training.
      fixed: with the behaviour policy held at distance 0.4.
    """

    problem: str
    following: float | None
    fixed: float | None


def asymmetry(case: Case) -> Asymmetry:
    """Whether ḡ(θ) is the gradient of a function: its Jacobian is then symmetric. None where the Jacobian is 0.

    Automatic differentiation cannot tell: it does not differentiate what is stopped, and ḡ depends on it.
    """
    theta, fixed = case.problem.logits, case.at(JACOBIAN_DISTANCE)
    following = _jacobian(lambda x: estimates(case, x, x).mean, theta)
    held = _jacobian(lambda x: estimates(case, x, fixed).mean, theta)
    return Asymmetry(case.problem.name, _asymmetry(following), _asymmetry(held))


def _jacobian(mean: Callable[[np.ndarray], np.ndarray], theta: np.ndarray) -> np.ndarray:
    """Rows ∂ḡ/∂θ_k, [P, P].

    A constant added to all logits of a state changes no probability: rows of a state add up to 0, and the last follows
    from the others.
    """
    states, actions = theta.shape
    rows = np.zeros((states, actions, theta.size))
    for s, a in np.ndindex(states, actions - 1):
        unit = np.zeros(theta.shape)
        unit[s, a] = STEP
        near, far = (mean(theta + j * unit) - mean(theta - j * unit) for j in (1, 2))
        rows[s, a] = (8 * near - far) / (12 * STEP)
    rows[:, -1] = -rows[:, :-1].sum(1)
    return rows.reshape(theta.size, theta.size)


def _asymmetry(jacobian: np.ndarray) -> float | None:
    size = float(np.linalg.norm(jacobian))
    return float(np.linalg.norm(jacobian - jacobian.T)) / size if size > 1e-9 else None


def _some(members: np.ndarray) -> np.ndarray:
    """Not more than CLIP_BATCHES of them, evenly from the list."""
    return members[np.unique(np.linspace(0, len(members) - 1, CLIP_BATCHES).astype(int))]


class Clipping(NamedTuple):
    """Where the slopes in log π first stop being smooth in the distance.

    Attributes:
      problem: on which it was looked for.
      distance: the first of the grid beyond it; None for none up to `largest`.
      ratios: the smallest and largest π_θ/μ of a step there.
      largest: distance that was looked at.
    """

    problem: str
    distance: float | None
    ratios: tuple[float, float] | None
    largest: float


def clipping(case: Case) -> Clipping:
    """Follow every slope along growing distances; a kink or a jump is where four points no longer predict the fifth."""
    theta, name, largest = case.problem.logits, case.problem.name, float(CLIP_GRID[-1])
    case = case._replace(batches=case.batches._replace(members=_some(case.batches.members)))
    last: list[np.ndarray] = []
    for distance in CLIP_GRID:
        behaviour = case.at(distance)
        slope = slopes(case, case_data(case, theta, behaviour))[1]
        if len(last) == 4:
            a, b, c, d = last
            predicted = 4 * d - 6 * c + 4 * b - a
            if np.abs(slope - predicted).max() > CLIP_JUMP * np.abs(d).max():
                logs = log_softmax(theta) - log_softmax(behaviour)
                return Clipping(name, max(0.0, float(distance)), (math.exp(logs.min()), math.exp(logs.max())), largest)
        last = [*last[-3:], slope]
    return Clipping(name, None, None, largest)
