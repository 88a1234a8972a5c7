"""The library's estimators as losses, and the comparison of a loss with all of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pgjax.config import Config, Recipe
from pgjax.estimators.advantages import gae, td_error, vtrace
from pgjax.estimators.baselines import (
    baselined,
    leave_one_out,
    same_batch_mean,
    standardised,
    state_value,
    time_step,
)
from pgjax.estimators.contracts import name_of
from pgjax.estimators.distributions import Categorical
from pgjax.estimators.groups import group_standardised
from pgjax.estimators.lengths import divided, longest_length, mean_length, own_length
from pgjax.estimators.reductions import size_of
from pgjax.estimators.reference_kl import penalised_reward, step_divisor
from pgjax.estimators.returns import (
    discounted_objective,
    discounted_reward,
    make_signals,
    off_policy_reward_to_go,
    reward_to_go,
    total_return,
    weighted_per_decision,
    weighted_trajectory,
)
from pgjax.estimators.surrogates import clipped_ratio, prefix_product, ratio, score, stopped_prefix, trajectory_weight
from pgjax.oracle.certificates.arrays import batch_arrays
from pgjax.oracle.certificates.chain_rule import log_softmax
from pgjax.oracle.certificates.credits import SIGNAL_ARRAYS, signal_arrays, signals_of
from pgjax.oracle.certificates.evaluation import Case, Estimates
from pgjax.oracle.certificates.precision import NEARLY
from pgjax.oracle.certificates.programs import CHUNK, QUICK, in_chunks
from pgjax.training.loss import Batch, policy_loss
from pgjax.types import Agent, Algorithm, Estimator, SettingError, Signals, Transition


def estimator_loss(given: Estimator | Algorithm | Recipe) -> Callable[..., Array]:
    """Convert an estimator, or the policy loss of an algorithm or recipe, to a function of named arrays.

    An estimator or algorithm gets the factor γ^t, as in `oracle.moments`, and a mean over trajectories; a recipe uses
    its own configuration. Entropy bonus and KL penalties are included. The critic's loss and transformations of the
    gradient (natural and trust-region steps, momentum, gradient clipping) are not. `max_mismatch` has no effect, since
    sampler and learner are the same policy. Control variates, built from per-trajectory gradients, are rejected.
    """
    if isinstance(given, Recipe):
        algorithm, config = given
    else:
        algorithm = given if isinstance(given, Algorithm) else Algorithm(given, optimizer=None)
        config = Config(discounted_objective=True)
    if callable(algorithm.entropy_coefficient):
        algorithm = algorithm._replace(entropy_coefficient=algorithm.entropy_coefficient(0))
    if algorithm.control_variate is not None:
        raise SettingError("loss", name_of(algorithm.control_variate), "is a control variate, which no loss contains")
    referring = algorithm.reference_loss is not None or algorithm.reference_reward is not None

    def loss(
        log_probs: Array,
        behaviour_log_probs: Array,
        behaviour_log_prob: Array,
        action: Array,
        reward: Array,
        mask: Array,
        terminated: Array,
        truncated: Array,
        value: Array,
        next_value: Array,
        action_value: Array,
        discount: Array,
        group: Array,
        reference_log_prob: Array,
    ) -> Array:
        taken = jnp.take_along_axis(log_probs, action[..., None], axis=-1).squeeze(-1)
        signals = make_signals(
            reward,
            mask=mask,
            terminated=terminated,
            truncated=truncated,
            value=value,
            next_value=next_value,
            action_value=action_value,
            action=action,
            discount=discount,
            group=group,
            log_ratio=taken - behaviour_log_prob,
            truncation=config.truncation,
            behaviour_log_prob=behaviour_log_prob,
            reference_log_prob=reference_log_prob if referring else None,
        )
        if algorithm.reference_reward is not None:
            signals = penalised_reward(algorithm.reference_reward, signals)
        signals = jax.lax.stop_gradient(discounted_objective(signals) if config.discounted_objective else signals)
        rows = Transition(None, action, behaviour_log_prob, reward, terminated, truncated, None, mask)
        credit = jax.lax.stop_gradient(algorithm.estimator.credit(signals))
        credit = jax.tree.map(lambda x: jnp.broadcast_to(x, (*mask.shape, *x.shape[2:])), credit)
        batch = Batch(rows, signals, credit, behaviour=Categorical(behaviour_log_probs))
        if algorithm.reference_loss is not None:
            batch = batch._replace(divisor=step_divisor(algorithm.reference_loss, signals))
        agent = Agent(init=None, policy=lambda params, _: Categorical(params))  # type: ignore[arg-type]
        return policy_loss(agent, algorithm, config, log_probs, batch, size_of(mask))[0]

    credit, contribution = (name_of(part) for part in algorithm.estimator)
    loss.__name__ = contribution.replace("(", f"({credit}, ", 1) if "(" in contribution else contribution
    return loss


CREDITS = {
    "total_return": total_return,
    "reward_to_go": reward_to_go,
    "off_policy_reward_to_go": off_policy_reward_to_go,
    "discounted_reward": discounted_reward,
    "weighted_trajectory": weighted_trajectory,
    "weighted_per_decision": weighted_per_decision,
    "group_standardised": group_standardised,
    "group_standardised / own_length": divided(group_standardised, own_length),
    "group_standardised / mean_length": divided(group_standardised, mean_length),
    "baselined(total_return, same_batch_mean) / longest_length": divided(
        baselined(total_return, same_batch_mean), longest_length
    ),
    "standardised(reward_to_go)": standardised(reward_to_go),
    **{
        f"baselined({name_of(credit)}, {name_of(baseline)})": baselined(credit, baseline)
        for credit in (total_return, reward_to_go)
        for baseline in (same_batch_mean, leave_one_out, time_step, state_value)
    },
    "baselined(off_policy_reward_to_go, state_value)": baselined(off_policy_reward_to_go, state_value),
    "gae(λ=1)": partial(gae, gae_lambda=1.0),
    "gae(λ=0.95)": gae,
    "td_error": td_error,
    "vtrace": vtrace,
}
SURROGATES = {
    "score": score,
    "ratio": ratio,
    "stopped_prefix": stopped_prefix,
    "trajectory_weight": trajectory_weight,
    "clipped_ratio(0.2)": clipped_ratio,
    "prefix_product": prefix_product,
}
FRONT = (False, True)  # without and with the factor γ^t of `discounted_objective`
UNUSED = ("action", "action_value")  # CREDITS do not read them; without them a program fits any number of actions
EQUAL_STEPS = 4  # batches are padded to a multiple, so that problems with different horizons share a program
NEEDS_LARGER_BATCH = ("leave_one_out", "time_step")
BATCH_BASELINES = ("leave_one_out", "same_batch_mean")


class Product(NamedTuple):
    """credit × surrogate, by their names in CREDITS and SURROGATES."""

    credit: str
    front: bool
    surrogate: str

    def __str__(self) -> str:
        """The product as text."""
        return f"{'γ^t · ' if self.front else ''}{self.credit} × {self.surrogate}"


@lru_cache(maxsize=64)
def _credits_program(credits: tuple[str, ...]) -> Callable:
    """Credits, arrays [B, T, N] -> [B, 2, credits, T, N]; 2 for FRONT. One program for all distances."""

    def of_all(signals: Signals) -> Array:
        return jnp.stack([jnp.broadcast_to(CREDITS[c](signals), signals.reward.shape) for c in credits])

    def one(arrays: dict[str, Array]) -> Array:
        signals = signals_of(**arrays)
        return jax.vmap(of_all)(jax.tree.map(lambda *x: jnp.stack(x), signals, discounted_objective(signals)))

    return jax.jit(jax.vmap(one), compiler_options=QUICK)


@lru_cache(maxsize=64)
def _slopes_program(surrogates: tuple[str, ...]) -> Callable:
    """Slopes in log π of all products, arrays and `_credits_program`'s -> [surrogates, 2, credits, B, T, N]."""

    def one(arrays: dict[str, Array]) -> Array:
        signals = signals_of(**{name: x for name, x in arrays.items() if name != "credits"})

        def slope(surrogate: Callable) -> Array:
            def total(x: Array, credit: Array) -> Array:
                return jnp.sum(signals.mask * surrogate(x, credit, signals.continues)) / signals.mask.shape[1]

            each = jax.vmap(jax.vmap(jax.grad(total), in_axes=(None, 0)), in_axes=(None, 0))
            return each(signals.log_ratio, arrays["credits"])

        return jnp.stack([slope(SURROGATES[name]) for name in surrogates])

    return jax.jit(jax.vmap(one, out_axes=3), compiler_options=QUICK)


class Equal(NamedTuple):
    """Estimators of the library with which a loss agrees, at one distance."""

    distance: float  # between policy and behaviour policy
    # name -> factor c with ĝ = c · (estimate of the product) on every batch of every problem. The name starts with
    # "nearly" if they agree to 1e-6 only.
    on_batches: dict[str, float]
    in_mean: list[str]  # names of products with the same mean but other estimates
    # name -> relation as text, for a factor that follows a formula in T, N or G, or agreement on problems without
    # groups only.
    otherwise: Mapping[str, str] = MappingProxyType({})


FACTORS: dict[str, Callable[[Case], float]] = {
    "1/T": lambda case: 1 / case.problem.mdp.horizon,
    "T": lambda case: case.problem.mdp.horizon,
    "N": lambda case: case.problem.batch_size,
    "1/N": lambda case: 1 / case.problem.batch_size,
    "1/(N T)": lambda case: 1 / (case.problem.batch_size * case.problem.mdp.horizon),
    "1 − 1/N": lambda case: 1 - 1 / case.problem.batch_size,
    "1 − 1/G": lambda case: 1 - 1 / sharing(case),
    "(1 − 1/G)/T": lambda case: (1 - 1 / sharing(case)) / case.problem.mdp.horizon,
    "1/(1 − 1/G)": lambda case: 1 / (1 - 1 / sharing(case)) if sharing(case) > 1 else np.nan,
}
"""Factors that are recognised, on problems with horizon T, batch size N and group size G (N without groups)."""

UNGROUPED = ", on problems without groups"
WHOLE_BATCH = UNGROUPED + "; on problems with groups, computed over the whole batch"


def sharing(case: Case) -> int:
    """Number of trajectories that share a baseline: the group size, or the batch size without groups."""
    return case.problem.group_size if case.problem.group_size > 1 else case.problem.batch_size


class _Agreement(NamedTuple):
    case: Case
    factor: float | None  # ĝ = factor · theirs on every batch; None if there is none
    exactly: bool  # to rounding, not only nearly
    in_mean: bool
    whole_batch: bool = False  # with the groups left out


def equal_to(found: list[tuple[Case, Estimates]], distance: float, *, exact: bool) -> Equal:
    """Compare a loss's estimates on every problem with those of every credit × surrogate.

    Products that disagree on one problem are not computed on the next. On-policy all surrogates except `prefix_product`
    have the gradient of `score`. On problems with groups, a product that disagrees is compared again with the whole
    batch as one group. If `exact`, the mean equals ∇J, and other products with this mean are not listed.
    """
    horizon = -(-max(case.problem.mdp.horizon for case, _ in found) // EQUAL_STEPS) * EQUAL_STEPS
    single = any(case.problem.batch_size < 2 for case, _ in found)
    surrogates = tuple(SURROGATES) if distance else ("score", "prefix_product")
    credits = tuple(c for c in CREDITS if not (single and any(x in c for x in NEEDS_LARGER_BATCH)))
    seen: dict[Product, list[_Agreement]] = {
        Product(c, front, s): [] for s in surrogates for front in FRONT for c in credits
    }
    varied = [case for case, _ in found if case_lengths_vary(case)] or [case for case, _ in found]
    shape = Counter(map(_shape, [c for c in varied if c.problem.group_size == 1] or varied)).most_common(1)[0][0]

    def order(x: tuple[Case, Estimates]) -> tuple[bool, bool, bool]:
        return x[0].problem.group_size > 1, _shape(x[0]) != shape, not case_lengths_vary(x[0])

    for i, (case, mine) in enumerate(sorted(found, key=order)):
        parts = (surrogates, credits) if _shape(case) == shape else _parts(list(seen))
        now = _agreements(case, mine, distance, horizon, list(seen), parts)
        if case.problem.group_size > 1:  # a product may agree without groups and ignore them
            fail = [p for p, a in now.items() if a.factor is None and (i > 0 or _may_ignore_groups(p))]
            again = _agreements(case, mine, distance, horizon, fail, _parts(fail), grouped=False) if fail else {}
            now |= {p: a._replace(in_mean=now[p].in_mean) for p, a in again.items()}
        seen = {p: [*before, now[p]] for p, before in seen.items()}
        seen = {p: agreements for p, agreements in seen.items() if _agrees_so_far(agreements, exact)}
        if not seen:
            break
    return _classify(seen, distance)


def _classify(seen: dict[Product, list[_Agreement]], distance: float) -> Equal:
    """Sort the remaining products by their relation to the loss."""
    relations = {p: _relation(agreements) for p, agreements in seen.items()}
    on_batches = {p: x for p, x in relations.items() if isinstance(x, float)}
    otherwise = {p: x for p, x in relations.items() if isinstance(x, str)}
    plain = {p: text for p, text in otherwise.items() if text.startswith("{}")}
    otherwise = plain or otherwise  # formulas for other products add nothing
    return Equal(
        distance,
        {_name_with_nearly(p, seen[p]): f for p, f in on_batches.items() if _is_preferred(p, on_batches)},
        _names([p for p, x in relations.items() if x is None and all(a.in_mean for a in seen[p])]),
        {
            (name := _name_with_nearly(p, seen[p])): text.format(name)
            for p, text in otherwise.items()
            if _is_preferred(p, otherwise)
        },
    )


def _may_ignore_groups(product: Product) -> bool:
    """Whether the product may use a baseline of the whole batch although there are groups."""
    return product.surrogate == "score" and any(x in product.credit for x in BATCH_BASELINES)


def _parts(products: list[Product]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    surrogates, credits = (tuple(dict.fromkeys(getattr(p, k) for p in products)) for k in ("surrogate", "credit"))
    return surrogates, credits


def _names(products: list[Product]) -> list[str]:
    return [str(p) for p in products if _is_preferred(p, products)]


def _is_preferred(product: Product, products: Iterable[Product]) -> bool:
    """Whether to name this product: not if it equals the one without γ^t."""
    return not product.front or product._replace(front=False) not in products


def _shape(case: Case) -> tuple[int, bool]:
    return case.problem.batch_size, case.problem.group_size > 1


def case_lengths_vary(case: Case) -> bool:
    """Whether trajectories of the problem differ in length."""
    return bool((case.batches.rollouts.mask == 0).any())


def _agreements(
    case: Case,
    mine: Estimates,
    distance: float,
    horizon: int,
    products: list[Product],
    parts: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    grouped: bool = True,
) -> dict[Product, _Agreement]:
    grouped = grouped and case.problem.group_size > 1
    theirs = _product_estimates(case, distance, horizon, products, *parts, grouped=grouped)
    whole = not grouped and case.problem.group_size > 1
    found = {p: _agreement(case, mine, x) for p, x in zip(products, theirs, strict=True)}
    return {p: a._replace(whole_batch=whole and a.factor is not None) for p, a in found.items()}


def _agreement(case: Case, mine: Estimates, theirs: np.ndarray) -> _Agreement:
    precision, size = case.precision, mine.size
    square = float(np.sum(theirs**2))
    factor = float(np.sum(theirs * mine.gradient)) / square if square > 0 else 0.0
    difference = float(np.abs(mine.gradient - factor * theirs).max())
    gap = float(np.abs(mine.mean - mine.probability @ theirs).max())
    same, exactly = difference < precision.nearly * size and factor != 0, difference < precision.rounding * size
    return _Agreement(case, factor if same else None, exactly, gap < precision.nearly * size)


def _agrees_so_far(seen: list[_Agreement], exact: bool) -> bool:
    """Whether a product agrees so far on the problems without groups, or in the mean on all."""
    agrees = all(a.factor is not None for a in seen if a.case.problem.group_size == 1)
    without = any(a.case.problem.group_size == 1 for a in seen) or all(a.factor is not None for a in seen)
    return (agrees and without) or (not exact and all(a.in_mean for a in seen))


def _relation(seen: list[_Agreement]) -> float | str | None:
    """A factor that holds on all problems, a formula for it, or the problems on which it holds; None otherwise."""
    ungrouped = [a for a in seen if a.case.problem.group_size == 1]
    where = WHOLE_BATCH if ungrouped else ", computed over the whole batch"
    found = _multiple(seen, where if any(a.whole_batch for a in seen) else "")
    return _multiple(ungrouped, UNGROUPED) if found is None and 0 < len(ungrouped) < len(seen) else found


def _multiple(seen: list[_Agreement], where: str) -> float | str | None:
    factors = [a.factor for a in seen if a.factor is not None]
    if len(factors) < len(seen):
        return None
    tolerance = max(a.case.precision.nearly for a in seen)
    if all(abs(f - factors[0]) < tolerance * abs(factors[0]) for f in factors):
        return f"{factor_text(factors[0], tolerance)}{{}}{where}" if where else factors[0]
    for name, of in FACTORS.items():
        if all(abs(f - of(a.case)) < tolerance * abs(f) for f, a in zip(factors, seen, strict=True)):
            return f"c · {{}} with c = {name}{where}"
    return None


def factor_text(factor: float, tolerance: float = NEARLY) -> str:
    """A factor as a prefix of a name; empty for 1 up to `tolerance`."""
    return "" if abs(factor - 1) < tolerance else f"{factor:.3g} · "


def _name_with_nearly(product: Product, seen: list[_Agreement]) -> str:
    """The product's name, with "nearly" if it agrees to 1e-6 but not to rounding."""
    agreeing = [a for a in seen if a.factor is not None]
    near = any(
        not a.exactly or a.case.precision.rounding < abs((a.factor or 0.0) - 1) < a.case.precision.nearly
        for a in agreeing
    )
    return f"nearly {product}" if near else str(product)


def _product_estimates(
    case: Case,
    distance: float,
    horizon: int,
    products: list[Product],
    surrogates: tuple[str, ...],
    credits: tuple[str, ...],
    *,
    grouped: bool,
) -> list[np.ndarray]:
    """The estimate of every batch of each product, [B, P], in chunks of batches."""
    problem = case.problem
    data = batch_arrays(problem, case.batches, problem.logits, case.at(distance), SIGNAL_ARRAYS)
    left_out = UNUSED if grouped else (*UNUSED, "group")
    arrays = {name: x for name, x in signal_arrays(data).items() if name not in left_out}
    steps = problem.mdp.horizon
    arrays = {  # equal shapes share one compiled program
        name: x if x.ndim < 3 else np.pad(x, ((0, 0), (0, horizon - steps), *[(0, 0)] * (x.ndim - 2)))
        for name, x in arrays.items()
    }
    states, actions = problem.logits.shape
    pi = np.exp(log_softmax(problem.logits))
    where = [(surrogates.index(p.surrogate), FRONT.index(p.front), credits.index(p.credit)) for p in products]
    program, found = _slopes_program(surrogates), []
    with jax.enable_x64(True):
        for start in range(0, len(data.mask), CHUNK):
            rows = slice(start, start + CHUNK)
            some = {name: x[rows] for name, x in arrays.items()}
            psi = in_chunks(_credits_program(credits), some)
            slope = in_chunks(program, some | {"credits": psi}, axis=3)
            slope = np.stack([slope[at][:, :steps] for at in where])  # [products, b, T, N]
            state, action = data.state[rows, :-1], data.action[rows, :-1]
            score = np.eye(states)[state][..., None] * (np.eye(actions)[action] - pi[state])[..., None, :]
            flat = slope.reshape(*slope.shape[:2], -1).swapaxes(0, 1)  # [b, products, T N]
            found.append(flat @ score.reshape(len(state), flat.shape[2], -1))
    return list(np.concatenate(found).swapaxes(0, 1))
