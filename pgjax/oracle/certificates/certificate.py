"""`certify`: the exact mean and variance of −∇loss, over every batch of small problems."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from pgjax.config import Recipe
from pgjax.estimators.contracts import name_of
from pgjax.oracle.certificates import show
from pgjax.oracle.certificates.batches import MAX_BATCHES, enumerate_batches
from pgjax.oracle.certificates.entries import (
    AWAY,
    DISTANCES,
    Asymmetry,
    Clipping,
    Order,
    Row,
    asymmetry,
    choose_objective,
    clipping,
    make_row,
    order_of_bias,
)
from pgjax.oracle.certificates.evaluation import Case, check_repeatable, estimates
from pgjax.oracle.certificates.frameworks import Loss, as_loss
from pgjax.oracle.certificates.invariances import (
    FLAGS,
    REWARDED,
    Before,
    Invariance,
    batch_permuted,
    before,
    invariances,
    takes_any,
    time_limit_as_termination,
    worst,
)
from pgjax.oracle.certificates.layouts import check_layout
from pgjax.oracle.certificates.library import Equal, equal_to, estimator_loss
from pgjax.oracle.certificates.objectives import Objective
from pgjax.oracle.certificates.precision import Precision, coarsest, precision_of
from pgjax.oracle.certificates.problems import Problem, default_problems, problem
from pgjax.oracle.mdp import MDP
from pgjax.types import Algorithm, Credit, Estimator, SettingError


class TestedProblem(NamedTuple):
    """A problem on which a loss was evaluated."""

    name: str
    batches: int
    batch_size: int
    group_size: int
    horizon: int
    discount: float
    lengths: tuple[int, int]  # shortest and longest episode
    time_limit: bool
    orders_counted: bool  # whether batches that differ only in order were evaluated once


@dataclass(frozen=True, repr=False)
class Certificate:
    """Properties of a loss, found by `certify`. `print` it, display it in a notebook, or read its fields.

    Attributes:
      precision: floating type of the loss, with the tolerances used for it.
      arrays: parameter -> name of the array or credit that was passed.
      objective: the J whose gradient is closest to the mean gradient, among `OBJECTIVES`.
      errors: objective -> largest on-policy error ‖ḡ − ∇J‖/‖∇J‖, on the problems where objectives differ.
      rows: one row for each problem and distance.
      orders: order of the bias on each problem.
      clipping: the distance at which ratios begin to be clipped.
      asymmetries: asymmetry of the Jacobian of ḡ(θ) on each problem.
      invariances: effects of changes of the data on the gradient.
      ends: effect of marking time limits as terminations. None without a time limit among the problems, and for a loss
        that takes neither rewards nor flags.
      equal: estimators of the library with which the loss agrees, on-policy and off-policy.
    """

    loss: str
    framework: str
    layout: str
    pad_to: str
    precision: Precision
    arrays: Mapping[str, str]
    problems: tuple[TestedProblem, ...]
    objective: Objective
    errors: Mapping[Objective, float | None]
    rows: tuple[Row, ...]
    orders: tuple[Order, ...]
    clipping: Clipping
    asymmetries: tuple[Asymmetry, ...]
    invariances: tuple[Invariance, ...]
    ends: Invariance | None
    equal: tuple[Equal, ...]

    @property
    def on_policy(self) -> list[Row]:
        """The rows at distance 0."""
        return [row for row in self.rows if row.distance == 0]

    @property
    def unbiased(self) -> bool:
        """Whether the on-policy mean equals ∇J on every problem, up to rounding, for an objective J that exists."""
        return self.objective.is_function and self.fits(self.precision.rounding)

    def fits(self, tolerance: float) -> bool:
        """Whether the on-policy mean equals the objective's gradient on every problem, up to a relative error."""
        return all(row.error < tolerance if row.error is not None else row.mean_is_zero for row in self.on_policy)

    @property
    def scale(self) -> tuple[float, float]:
        """The smallest and the largest on-policy scale c = ⟨ḡ, ∇J⟩/‖∇J‖²; NaN where no problem has one."""
        found = [row.scale for row in self.on_policy if row.scale is not None]
        return (min(found), max(found)) if found else (np.nan, np.nan)

    @property
    def cosine(self) -> float:
        """The smallest on-policy cosine; NaN where no problem has one."""
        return min((row.cosine for row in self.on_policy if row.cosine is not None), default=np.nan)

    @property
    def angle(self) -> float:
        """The largest on-policy angle between ḡ and ∇J, in degrees; NaN where no problem has one."""
        return max((row.angle for row in self.on_policy if row.angle is not None), default=np.nan)

    @property
    def error(self) -> float:
        """The largest on-policy error ‖ḡ − ∇J‖/‖∇J‖; NaN where no problem has one."""
        return max((row.error for row in self.on_policy if row.error is not None), default=np.nan)

    def to_dict(self) -> dict[str, Any]:
        """The certificate as dicts, lists, numbers and strings; numbers that are not finite become None."""
        return _plain(
            asdict(self)
            | {"errors": {str(o): e for o, e in self.errors.items()}, "summary": [list(x) for x in show.entries(self)]}
        )

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __repr__(self) -> str:
        """The verdict on the on-policy mean."""
        return f"<Certificate of {show.headline(self)}>"

    def __str__(self) -> str:
        """The report as plain text."""
        return show.as_text(self)

    def __rich__(self) -> Any:
        """The report as rich tables."""
        return show.as_rich(self)

    def _repr_html_(self) -> str:
        """The report for a notebook."""
        return show.as_html(self)

    def plot(self) -> Any:
        """A matplotlib figure: mean gradients and ∇J, the error against the distance, and bias and variance."""
        return show.as_figure(self)


def _plain(x: Any) -> Any:
    if hasattr(x, "_asdict"):
        return _plain(x._asdict())
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    return x


def certify(
    loss: Callable[..., Any] | Estimator | Algorithm | Recipe,
    *,
    problems: Problem | MDP | Iterable[Problem | MDP] | None = None,
    framework: str = "jax",
    layout: str = "time_major",
    pad_to: str = "longest",
    names: Mapping[str, str | Credit] | None = None,
    without: Iterable[str] = (),
    max_batches: int = MAX_BATCHES,
) -> Certificate:
    """Compute the exact mean and variance of −∇loss over every batch of small problems, and test its properties:

        ĝ = −∇_θ loss,   ḡ = Σ_batches P(batch) ĝ(batch),   compared with ∇J.

    Here θ are the logits of a tabular softmax policy. The loss is differentiated in log π_θ within its own framework,
    and the chain rule to θ is applied here. Inputs are float64 in every JAX mode. Tolerances are wider for a loss that
    computes in float32, and the report shows them.
    Args:
      loss: function of named arrays (listed in `oracle.certificates.ARRAYS`) that returns a scalar to minimise; or an
        Estimator, Algorithm or Recipe.
      problems: from `oracle.problem`, or MDPs; default `oracle.default_problems()`.
      framework: "jax"; "torch" for a function of float64 tensors; "numpy" for a function of numpy arrays that returns
        (value, gradient in log_prob[, in log_probs]), gradients in the order of its parameters.
      layout: "time_major" [T, N], "batch_major" [N, T], "batch_major_left" (padding first), or "flat" [tokens].
      pad_to: pad batches to their "longest" trajectory, or to the "horizon".
      names: parameter -> array name or credit, as in `{"old_logp": "behaviour_log_prob", "advantages": pgjax.gae}`.
      without: parameters that keep their defaults although an array has their name.
      max_batches: limit on the number of batches of a problem.
    Raises:
      SettingError: for a loss that does not depend on log π, returns no finite scalar, or differs between calls.

    >>> import jax.numpy as jnp
    >>> from pgjax.oracle import make_mdp
    >>> def loss(log_prob, episode_return, mask):
    ...     return -jnp.mean(jnp.sum(log_prob * mask, axis=0) * (episode_return - episode_return.mean()))
    >>> arms = make_mdp([1.0], [[[0.0], [0.0]]], [[1.0, 0.0]], horizon=1)
    >>> certificate = certify(loss, problems=arms)  # batches of 2; the baseline includes each return itself
    >>> certificate.unbiased, [round(c, 6) for c in certificate.scale], round(certificate.cosine, 6)
    (False, [0.5, 0.5], 1.0)
    """
    cases = make_cases(loss, problems, framework, layout, pad_to, names, without, max_batches)
    precision = coarsest(c.precision for c in cases)
    found = {d: [Before(c, d, estimates(c, c.problem.logits, c.at(d))) for c in cases] for d in DISTANCES}
    on_policy = found[0.0]
    objective, errors = choose_objective([(x.case, x.estimates) for x in on_policy])
    rows = [
        [make_row(found[d][i].case, found[d][i].estimates, d, objective) for d in DISTANCES] for i in range(len(cases))
    ]
    varied = [c for c in cases if _lengths(c)[0] < _lengths(c)[1]] or cases
    limited = [
        x for x in on_policy if x.case.batches.rollouts.truncated.any() and takes_any(x.case, (*REWARDED, *FLAGS))
    ]
    ends = [time_limit_as_termination(x) for x in limited]
    unbiased_at = {
        d: all((r.error or 0.0) < precision.nearly for each in rows for r in each if r.distance == d)
        for d in (0.0, AWAY)
    }
    return Certificate(
        cases[0].loss.name,
        cases[0].loss.framework,
        layout,
        pad_to,
        precision,
        {p: x if isinstance(x, str) else name_of(x) for p, x in cases[0].loss.sources.items()},
        tuple(_tested_problem(c) for c in cases),
        objective,
        errors,
        tuple(row for each in rows for row in each),
        tuple(order_of_bias(each, precision) for each in rows),
        clipping(varied[0]),
        tuple(asymmetry(c) for c in cases),
        tuple(invariances(on_policy, found[AWAY])),
        worst(ends) if ends else None,
        tuple(equal_to([(x.case, x.estimates) for x in found[d]], d, exact=unbiased_at[d]) for d in (0.0, AWAY)),
    )


def make_cases(
    loss: Callable[..., Any] | Estimator | Algorithm | Recipe,
    problems: Problem | MDP | Iterable[Problem | MDP] | None = None,
    framework: str = "jax",
    layout: str = "time_major",
    pad_to: str = "longest",
    names: Mapping[str, str | Credit] | None = None,
    without: Iterable[str] = (),
    max_batches: int = MAX_BATCHES,
) -> list[Case]:
    """Prepare a loss on every problem. Arguments and errors are those of `certify`."""
    check_layout(layout, pad_to)
    if isinstance(loss, Estimator | Algorithm | Recipe):
        if layout != "time_major":
            raise SettingError("layout", layout, "must be time_major for estimators of the library")
        loss = estimator_loss(loss)
    wrapped = as_loss(loss, framework, names, without)
    cases = [_case(wrapped, each, layout, pad_to, max_batches) for each in _problems(problems)]
    if all(_no_gradient(c) for c in cases):
        if not any(np.any(c.problem.mdp.reward[c.batches.rollouts.state, c.batches.rollouts.action]) for c in cases):
            raise SettingError(
                "problems", [c.problem.name for c in cases], "have no reward: every reachable reward is 0"
            )
        single = [c for c in cases if c.problem.batch_size == 1]
        if len(single) == len(cases) and not _no_gradient(_case(wrapped, _in_pairs(cases[0].problem), layout, pad_to)):
            reason = "has a gradient of 0 on every batch of 1 trajectory, which has no others for a baseline: "
            raise SettingError("loss", wrapped.name, reason + "increase batch_size")
        reason = "does not depend on log π: its gradient is 0 on every batch; check for a stop-gradient or detach"
        raise SettingError("loss", wrapped.name, reason)
    return cases


def _case(loss: Loss, each: Problem, layout: str, pad_to: str, max_batches: int = MAX_BATCHES) -> Case:
    """A loss on one problem; lists every order of a batch if the loss depends on the order."""
    batches = enumerate_batches(each, ordered=False, max_batches=max_batches)
    case = Case(loss, each, batches, layout, pad_to)
    case = case._replace(precision=precision_of(check_repeatable(case)))
    if batch_permuted(before(case, AWAY)).on_batches > case.precision.nearly:
        return case._replace(batches=enumerate_batches(each, ordered=True, max_batches=max_batches))
    return case


def _no_gradient(case: Case) -> bool:
    return not np.any(estimates(case, case.problem.logits, case.at(AWAY)).gradient)


def _in_pairs(problem: Problem) -> Problem:
    return problem._replace(batch_size=2)


def _problems(given: Problem | MDP | Iterable[Problem | MDP] | None) -> list[Problem]:
    if given is None:
        return default_problems()
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, Problem) else [given]
    if not listed:
        raise SettingError("problems", listed, "is empty")
    made = [problem(x, name=f"problem {i + 1}") if isinstance(x, MDP) else x for i, x in enumerate(listed)]
    for x in made:
        if not isinstance(x, Problem):
            raise SettingError("problems", type(x).__name__, "must be an MDP or a Problem from oracle.problem")
    return _with_different_names(made)


def _with_different_names(problems: list[Problem]) -> list[Problem]:
    """Problems whose names differ, by the position added to a repeated one: results are looked up by name."""
    found: list[Problem] = []
    for i, p in enumerate(problems):
        while p.name in {earlier.name for earlier in found}:
            p = p._replace(name=f"{p.name} ({i + 1})")
        found.append(p)
    return found


def _lengths(case: Case) -> tuple[int, int]:
    length = case.batches.rollouts.mask.sum(0)
    return int(length.min()), int(length.max())


def _tested_problem(case: Case) -> TestedProblem:
    p = case.problem
    ordered = bool(np.all(case.batches.orderings == 1)) and p.batch_size > 1
    return TestedProblem(
        p.name,
        int(case.batches.orderings.sum()),
        p.batch_size,
        p.group_size,
        p.mdp.horizon,
        p.mdp.discount,
        _lengths(case),
        p.time_limit,
        not ordered,
    )
