"""Properties of a mean gradient: scale, cosine, error, order of its bias, clipping, symmetry of its Jacobian."""

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
"""Distance of the off-policy tests of invariances and of equal estimators."""

JACOBIAN_DISTANCE = 0.35
"""Distance of the fixed behaviour policy; on the default problems no ratio is near 1 ± 0.1, 0.2, 0.28 or 0.3 there."""

STEP = 2e-3
CLIP_GRID = np.linspace(-0.1, 1.5, 65)  # starts below 0, so that a kink at 0 is found, as V-trace has
CLIP_JUMP = 1e-3
CLIP_FALL = 64  # without a kink, a quarter of the step reduces a fourth difference by more than this: by 256
JUMP = 1e-6  # a bias above this, with only rounding at half the distance, is a jump
CLIP_BATCHES = 100


class Comparison(NamedTuple):
    """A mean gradient ḡ compared with ∇J."""

    scale: float | None  # c = ⟨ḡ, ∇J⟩ / ‖∇J‖²; None where ∇J is 0
    cosine: float | None  # cosine of the angle between them; None where either is 0
    error: float | None  # ‖ḡ − ∇J‖ / ‖∇J‖; None where ∇J is 0
    note: str  # which of the two is 0, as text
    angle: float | None = None  # in degrees, accurate near 0 where the cosine rounds to 1. None where either is 0


def compare(
    mean: np.ndarray, gradient: np.ndarray, size: float = 1.0, earned: float = 1.0, zero: float = FLOAT64.zero
) -> Comparison:
    """Compare ḡ = `mean` with ∇J = `gradient`, both [P].

    ḡ is 0 if it is below `zero` times `size`, the largest component of single estimates. ∇J is 0 if it is rounding
    error relative to `earned`, the size of its terms.
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
    """Results on one problem at one distance; fields without comment are those of `Comparison`."""

    problem: str  # name of the problem
    distance: float  # δ = ‖θ − θ̄‖
    ratios: tuple[float, float]  # smallest and largest π_θ/μ of a step
    mean: list[float]  # ḡ = E[−∇loss], [P]
    gradient: list[float]  # ∇J of the certificate's objective, [P]
    scale: float | None
    cosine: float | None
    error: float | None
    note: str
    angle: float | None
    variance: float  # trace of the covariance of one batch's estimate
    mean_squared_error: float  # E‖ĝ − ∇J‖² of one batch
    loss: float  # mean value of the loss

    @property
    def mean_is_zero(self) -> bool:
        """Whether ḡ is 0 relative to single estimates."""
        return self.note.endswith(BOTH_ZERO) or (self.scale == 0.0 and self.angle is None)

    @property
    def turned(self) -> float:
        """Angle in radians between ḡ and the line through ∇J; 0 for −∇J too, and where either is 0."""
        return 0.0 if self.angle is None else math.radians(min(self.angle, 180.0 - self.angle))


BOTH_ZERO = "as is the mean gradient"


def make_row(case: Case, found: Estimates, distance: float, objective: Objective) -> Row:
    """Evaluate one problem at one distance."""
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
    """Find the objective whose gradient is closest to the mean gradients, and the largest error against each objective.

    The direction decides, since a scale belongs to the step size; the error decides among equal directions. Errors are
    taken on problems where the objectives differ, and are None if there is none.
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
        turned = len(cosines) - abs(cosines.sum())  # a wrong sign is wrong on every problem
        far = sum(x.error for x in found if x.error is not None)
        known = [x.error for x, tells in zip(found, differ, strict=True) if tells and x.error is not None]
        errors[objective] = max(known, default=None)
        misfit[objective] = (round(turned, digits), round(far, digits))
    return min(OBJECTIVES, key=lambda o: misfit[o]), errors


class Order(NamedTuple):
    """Growth of the bias with the distance to the behaviour policy."""

    problem: str  # name of the problem
    # log-log slope of the bias. None without bias at any distance, 0 with bias at distance 0, infinite if the bias
    # starts with a jump, as with clipping.
    order: float | None
    scale: float | None  # the scale at distance 0
    bias: list[float]  # ‖ḡ − scale · ∇J‖ / ‖∇J‖ at every distance


def order_of_bias(rows: list[Row], precision: Precision = FLOAT64) -> Order:
    """Fit the order of one problem's bias to its rows, sorted by distance from 0."""
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
    least = max(precision.rounding / 100, 10 * relative[0])  # the on-policy bias is not growth
    seen = [(r.distance, b) for r, b in zip(rows, relative, strict=True) if r.distance > 0 and b > least]
    (near, small), (far, large) = (*seen, seen[-1])[:2]
    slope = math.log(large / small) / math.log(far / near) if far > near else math.inf
    begins = any(0 < r.distance < near for r in rows) and small > max(JUMP, precision.nearly)
    if begins or slope < 0.1:
        return Order(first.problem, math.inf, first.scale, bias)
    return Order(first.problem, round(slope) if abs(slope - round(slope)) < 0.1 else slope, first.scale, bias)


class Asymmetry(NamedTuple):
    """‖M − Mᵀ‖ / ‖M‖ of the Jacobian M of ḡ(θ), by central differences of fourth order.

    None where M is 0. NaN where it is undecided, because of a kink or a coarse floating type.
    """

    problem: str  # name of the problem
    following: float | None  # with data of the policy itself, μ = π_θ, as in training
    fixed: float | None  # with data of a behaviour policy that stays at distance 0.35


def asymmetry(case: Case) -> Asymmetry:
    """Test whether ḡ(θ) is the gradient of a function: its Jacobian is then symmetric.

    Finite differences are needed, since automatic differentiation skips terms under stop-gradient on which ḡ depends.
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
    """Rows ∂ḡ/∂θ_k, [P, P]; a state's rows sum to 0, as a constant added to its logits changes no probability."""
    count = points.shape[-1]
    rows = np.moveaxis(points, 2, 0)
    rows = (8 * (rows[3] - rows[1]) - (rows[4] - rows[0])) / (12 * step)
    return np.concatenate([rows, -rows.sum(1, keepdims=True)], axis=1).reshape(count, count)


def _jacobian(mean: Callable[[np.ndarray], np.ndarray], theta: np.ndarray, step: float = STEP) -> np.ndarray:
    """M of ḡ(θ), [P, P]."""
    return _from_stencil(_stencil(mean, theta, step), step)


def _has_kink(points: np.ndarray, length: float, flat: float, precision: Precision) -> bool:
    """Whether ḡ has a jump or kink between the points of `_stencil`, from fourth and third differences.

    Fourth differences, of order step⁴ for a smooth ḡ, can vanish for a kink at two thirds of a step; third ones do not.
    """
    a, b, c, d, e = np.moveaxis(points, 2, 0)
    fourth = float(np.linalg.norm(a - 4 * b + 6 * c - 4 * d + e)) / precision.step
    third = float(np.linalg.norm(e - a - 2 * (d - b))) / precision.step
    return fourth > max(10 * precision.symmetric * length, flat) or third > max(300 * precision.step**2 * length, flat)


def _subsample(members: np.ndarray) -> np.ndarray:
    """At most CLIP_BATCHES batches, evenly spaced in the list."""
    return members[np.unique(np.linspace(0, len(members) - 1, CLIP_BATCHES).astype(int))]


class Clipping(NamedTuple):
    """The distance from which the slopes in log π are no longer smooth."""

    problem: str  # the problem that was tested
    distance: float | None  # first grid point beyond it; None if there is none up to `largest`
    ratios: tuple[float, float] | None  # smallest and largest π_θ/μ of a step there
    largest: float  # largest distance tested
    stops: bool = False  # whether some slope is exactly 0 on one side only, as that of a clipped surrogate


def clipping(case: Case) -> Clipping:
    """Find the first kink or jump of the slopes along growing distances.

    Extrapolation from four points fails there, and shorter steps do not reduce its error as for a smooth function.
    """
    theta, name, largest = case.problem.logits, case.problem.name, float(CLIP_GRID[-1])
    case = case._replace(batches=case.batches._replace(members=_subsample(case.batches.members)))

    def at(distance: float) -> np.ndarray:
        return slopes(case, case_data(case, theta, case.at(distance)))[1]

    last: list[np.ndarray] = []
    for i, distance in enumerate(CLIP_GRID):
        last = [*last[-4:], at(float(distance))]
        if len(last) < 5 or not (gap := _extrapolation_error(last)) > max(CLIP_JUMP, 20 * case.precision.rounding):
            continue
        fine = [at(float(d)) for d in np.linspace(CLIP_GRID[i - 4], distance, 17)]
        size = max(float(np.abs(x).max()) for x in last)
        finer = max(_extrapolation_error(fine[k : k + 5], size) for k in range(13))
        if finer > gap / CLIP_FALL:
            logs = log_softmax(theta) - log_softmax(case.at(float(distance)))
            ratios = math.exp(logs.min()), math.exp(logs.max())
            stops = bool(((last[-1] == 0) != (last[-2] == 0)).any())
            return Clipping(name, max(0.0, float(distance)), ratios, largest, stops)
    return Clipping(name, None, None, largest)


def _extrapolation_error(points: list[np.ndarray], size: float | None = None) -> float:
    """Error of extrapolating the fifth slope from four, relative to the largest slope."""
    a, b, c, d, e = points
    size = max(float(np.abs(x).max()) for x in points) if size is None else size
    return float(np.abs(e - 4 * d + 6 * c - 4 * b + a).max()) / size if size > 0 else 0.0
