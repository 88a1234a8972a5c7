"""What a certificate says of a mean gradient: scale, cosine, error; the order of its bias; whether it is a gradient."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.evaluation import Case, Estimates, case_data, estimates, slopes
from pgjax.oracle.certificates.objectives import OBJECTIVES, Objective, objective_gradient, objective_size
from pgjax.oracle.certificates.precision import FLOAT64, ROUNDING, Precision

DISTANCES = (0.0, *(0.8 / 2**k for k in range(9, -1, -1)))
SHOWN = (0.0, 0.1, 0.4, 0.8)
AWAY = 0.4
"""Where invariances are looked at, and what is equal off-policy."""

JACOBIAN_DISTANCE = 0.35
"""Of the data that stay fixed; on the default problems no ratio is near 1 ± 0.1, 0.2, 0.28 or 0.3 there."""

STEP = 2e-3
CLIP_GRID = np.linspace(-0.1, 1.5, 65)  # from the other side, so that a kink at 0 is seen: V-trace's, say
CLIP_JUMP = 1e-3
CLIP_FALL = 64  # by more a fourth difference falls where there is no kink and the step is a quarter: 256 times
JUMP = 1e-6  # a bias that is larger than this, and rounding at half the distance, is no power of it
CLIP_BATCHES = 100


class Comparison(NamedTuple):
    """A mean gradient beside ∇J.

    Attributes:
      scale: c = ⟨ḡ, ∇J⟩ / ‖∇J‖²; None where ∇J is 0.
      cosine: of the two; None where either is 0.
      error: ‖ḡ − ∇J‖ / ‖∇J‖; None where ∇J is 0.
      note: which of the two is 0, in words.
      angle: between them, in degrees; exact where the cosine is 1 to all its digits. None where either is 0.
    """

    scale: float | None
    cosine: float | None
    error: float | None
    note: str
    angle: float | None = None


def compare(
    mean: np.ndarray, gradient: np.ndarray, size: float = 1.0, earned: float = 1.0, zero: float = FLOAT64.zero
) -> Comparison:
    """Scale, cosine, error and angle of ḡ against ∇J; 0 is said in words.

    Args:
      mean: ḡ, [P].
      gradient: ∇J, [P].
      size: of single estimates, beside which ḡ may be rounding.
      earned: of a trajectory's share of ∇J, beside which ∇J may be rounding.
      zero: below this fraction of its size something is 0.

    >>> compare(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    Comparison(scale=0.5, cosine=1.0, error=0.5, note='', angle=0.0)
    >>> compare(np.zeros(2), np.array([2.0, -2.0])).note
    'the mean gradient is 0'
    """
    length, wanted = float(np.linalg.norm(mean)), float(np.linalg.norm(gradient))
    nothing = length <= zero * size
    if wanted <= FLOAT64.zero * earned:
        return Comparison(None, None, None, "∇J is 0" + (f", {BOTH_ZERO}" if nothing else ""))
    error = float(np.linalg.norm(mean - gradient)) / wanted
    if nothing:
        return Comparison(0.0, None, error, "the mean gradient is 0")
    along = float(mean @ gradient) / wanted
    across = float(np.linalg.norm(mean - along / wanted * gradient))
    cosine = min(1.0, max(-1.0, along / length))
    return Comparison(along / wanted, cosine, error, "", math.degrees(math.atan2(across, along)))


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
      angle: see Comparison.
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
    angle: float | None
    variance: float
    mean_squared_error: float
    loss: float

    @property
    def mean_is_zero(self) -> bool:
        """Whether ḡ is 0 beside single estimates."""
        return self.note.endswith(BOTH_ZERO) or (self.scale == 0.0 and self.angle is None)

    @property
    def turned(self) -> float:
        """How far ḡ is turned out of the line of ∇J, in radians: 0 for −∇J too, and where either is 0."""
        return 0.0 if self.angle is None else math.radians(min(self.angle, 180.0 - self.angle))


BOTH_ZERO = "and so is the mean gradient"


def make_row(case: Case, found: Estimates, distance: float, objective: Objective) -> Row:
    """Everything about one problem at one distance."""
    problem = case.problem
    gradient = objective_gradient(problem, case.batches.rollouts, problem.logits, objective)
    mean, size = found.mean, found.size
    earned = objective_size(problem, case.batches.rollouts, problem.logits, objective)
    variance = float(np.trace(found.covariance))
    logs = log_softmax(problem.logits) - log_softmax(case.at(distance))
    return Row(
        problem.name,
        distance,
        (math.exp(logs.min()), math.exp(logs.max())),
        mean.tolist(),
        gradient.tolist(),
        *compare(mean, gradient, size, earned, case.precision.zero),
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
    tables = [(c.problem, c.batches.rollouts, c.problem.logits) for c, _ in on_policy]
    gradients = [[objective_gradient(*table, o) for o in OBJECTIVES] for table in tables]
    sizes = [[objective_size(*table, o) for o in OBJECTIVES] for table in tables]
    differ = [
        bool(np.abs(np.array(each) - each[0]).max() > ROUNDING * max(size))
        for each, size in zip(gradients, sizes, strict=True)
    ]
    digits = round(-math.log10(max(c.precision.rounding for c, _ in on_policy)))
    for i, objective in enumerate(OBJECTIVES):
        found = [
            compare(e.mean, g[i], e.size, s[i], c.precision.zero)
            for (c, e), g, s in zip(on_policy, gradients, sizes, strict=True)
        ]
        cosines = np.array([x.cosine for x in found if x.cosine is not None])
        turned = len(cosines) - abs(cosines.sum())  # a flipped sign is one on every problem
        far = sum(x.error for x in found if x.error is not None)
        known = [x.error for x, tells in zip(found, differ, strict=True) if tells and x.error is not None]
        errors[objective] = max(known, default=None)
        misfit[objective] = (round(turned, digits), round(far, digits))
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


def order_of_bias(rows: list[Row], precision: Precision = FLOAT64) -> Order:
    """The order of one problem's bias, from its rows sorted by distance, 0 first."""
    first, gradient = rows[0], np.array(rows[0].gradient)
    length = float(np.linalg.norm(gradient))
    if first.scale is None:
        return Order(first.problem, None, None, [])
    pure = first.angle is not None and first.turned < precision.nearly
    factor = first.scale if pure else 1.0
    unit = abs(factor) * length
    bias = [float(np.linalg.norm(np.array(r.mean) - factor * gradient)) / length for r in rows]
    relative = [b * length / unit for b in bias]
    if relative[0] > precision.nearly:
        return Order(first.problem, 0.0, first.scale, bias)
    if max(relative) < precision.nearly:
        return Order(first.problem, None, first.scale, bias)
    least = max(precision.rounding / 100, 10 * relative[0])  # what is there on-policy is no growth
    seen = [(r.distance, b) for r, b in zip(rows, relative, strict=True) if r.distance > 0 and b > least]
    (near, small), (far, large) = (*seen, seen[-1])[:2]
    slope = math.log(large / small) / math.log(far / near) if far > near else math.inf
    begins = any(0 < r.distance < near for r in rows) and small > max(JUMP, precision.nearly)
    if begins or slope < 0.1:
        return Order(first.problem, math.inf, first.scale, bias)
    return Order(first.problem, round(slope) if abs(slope - round(slope)) < 0.1 else slope, first.scale, bias)


class Asymmetry(NamedTuple):
    """‖M − Mᵀ‖ / ‖M‖ of the Jacobian M of ḡ(θ), by central differences of fourth order.

    None where M is 0; NaN where it is not decided, for a kink or numbers that are too coarse.

    Attributes:
      problem: its name.
      following: with the behaviour policy following θ, μ = π_θ, as in training.
      fixed: with the behaviour policy held at a distance of 0.35.
    """

    problem: str
    following: float | None
    fixed: float | None


def asymmetry(case: Case) -> Asymmetry:
    """Whether ḡ(θ) is the gradient of a function: its Jacobian is then symmetric.

    Automatic differentiation cannot tell: it does not differentiate what is stopped, and ḡ depends on it. A kink of
    ḡ between the points of the differences makes them wrong, so it is looked for.
    """
    fixed = case.at(JACOBIAN_DISTANCE)
    following = _asymmetry(case, lambda x: estimates(case, x, x))
    return Asymmetry(case.problem.name, following, _asymmetry(case, lambda x: estimates(case, x, fixed)))


def _asymmetry(case: Case, found: Callable[[np.ndarray], Estimates]) -> float | None:
    precision, theta = case.precision, case.problem.logits
    if precision.step == 0:
        return math.nan
    here = found(theta)
    points = _stencil(lambda x: found(x).mean, theta, precision.step, here.mean)
    jacobian = _from_stencil(points, precision.step)
    length, flat = float(np.linalg.norm(jacobian)), precision.flat * max(here.size, float(np.abs(points).max()))
    if _has_kink(points, length, flat, precision):
        return math.nan
    if length <= flat:
        return None
    return max(0.0, float(np.linalg.norm(jacobian - jacobian.T)) - flat / 1000) / length


def _stencil(
    mean: Callable[[np.ndarray], np.ndarray], theta: np.ndarray, step: float, here: np.ndarray | None = None
) -> np.ndarray:
    """ḡ at −2, −1, 0, 1 and 2 steps along each logit but the last of each state, [S, A − 1, 5, P]."""
    states, actions = theta.shape
    here = mean(theta) if here is None else here
    points = np.zeros((states, actions - 1, 5, theta.size))
    for s, a in np.ndindex(states, actions - 1):
        unit = np.zeros(theta.shape)
        unit[s, a] = step
        points[s, a] = [here if j == 0 else mean(theta + j * unit) for j in (-2, -1, 0, 1, 2)]
    return points


def _from_stencil(points: np.ndarray, step: float) -> np.ndarray:
    """Rows ∂ḡ/∂θ_k, [P, P].

    A constant added to all logits of a state changes no probability: rows of a state add up to 0, and the last follows
    from the others.
    """
    count = points.shape[-1]
    rows = np.moveaxis(points, 2, 0)
    rows = (8 * (rows[3] - rows[1]) - (rows[4] - rows[0])) / (12 * step)
    return np.concatenate([rows, -rows.sum(1, keepdims=True)], axis=1).reshape(count, count)


def _jacobian(mean: Callable[[np.ndarray], np.ndarray], theta: np.ndarray, step: float = STEP) -> np.ndarray:
    """M of ḡ(θ), [P, P]."""
    return _from_stencil(_stencil(mean, theta, step), step)


def _has_kink(points: np.ndarray, length: float, flat: float, precision: Precision) -> bool:
    """Whether ḡ jumps or bends between the points: fourth differences of what is smooth are of the order step⁴.

    A bend two thirds of a step from the middle has none, but then a third difference, of the order of the step.

    Args:
      points: of `_stencil`.
      length: ‖M‖, beside which a difference counts.
      flat: what is no slope, but rounding.
      precision: for the step and what is symmetric.
    """
    a, b, c, d, e = np.moveaxis(points, 2, 0)
    fourth = float(np.linalg.norm(a - 4 * b + 6 * c - 4 * d + e)) / precision.step
    third = float(np.linalg.norm(e - a - 2 * (d - b))) / precision.step
    return fourth > max(10 * precision.symmetric * length, flat) or third > max(300 * precision.step**2 * length, flat)


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
      stops: whether some slope is exactly 0 on one side of it alone, as that of a clipped surrogate is.
    """

    problem: str
    distance: float | None
    ratios: tuple[float, float] | None
    largest: float
    stops: bool = False


def clipping(case: Case) -> Clipping:
    """Follow every slope along growing distances; at a kink or a jump four points do not predict the fifth.

    Nor do they where a smooth slope changes fast: but there the prediction becomes better with shorter steps.
    """
    theta, name, largest = case.problem.logits, case.problem.name, float(CLIP_GRID[-1])
    case = case._replace(batches=case.batches._replace(members=_some(case.batches.members)))

    def at(distance: float) -> np.ndarray:
        return slopes(case, case_data(case, theta, case.at(distance)))[1]

    last: list[np.ndarray] = []
    for i, distance in enumerate(CLIP_GRID):
        last = [*last[-4:], at(float(distance))]
        if len(last) < 5 or not (gap := _unpredicted(last)) > max(CLIP_JUMP, 20 * case.precision.rounding):
            continue
        fine = [at(float(d)) for d in np.linspace(CLIP_GRID[i - 4], distance, 17)]
        size = max(float(np.abs(x).max()) for x in last)
        finer = max(_unpredicted(fine[k : k + 5], size) for k in range(13))
        if finer > gap / CLIP_FALL:
            logs = log_softmax(theta) - log_softmax(case.at(float(distance)))
            ratios = math.exp(logs.min()), math.exp(logs.max())
            stops = bool(((last[-1] == 0) != (last[-2] == 0)).any())
            return Clipping(name, max(0.0, float(distance)), ratios, largest, stops)
    return Clipping(name, None, None, largest)


def _unpredicted(points: list[np.ndarray], size: float | None = None) -> float:
    """What four slopes leave of the fifth, relative to the largest of all."""
    a, b, c, d, e = points
    size = max(float(np.abs(x).max()) for x in points) if size is None else size
    return float(np.abs(e - 4 * d + 6 * c - 4 * b + a).max()) / size if size > 0 else 0.0
