"""The library's own estimators: as losses, and as what a loss is compared with."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
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
from pgjax.oracle.certificates.chain_rule import logit_gradient
from pgjax.oracle.certificates.entries import ROUNDING
from pgjax.oracle.certificates.evaluation import SIGNAL_ARRAYS, Case, Estimates, signal_arrays, signals_of
from pgjax.oracle.certificates.frameworks import QUICK, in_chunks
from pgjax.training.loss import Batch, policy_loss
from pgjax.types import Agent, Algorithm, Estimator, SettingError, Signals, Transition


def estimator_loss(given: Estimator | Algorithm | Recipe) -> Callable[..., Array]:
    """An estimator, or the policy loss of an algorithm or a recipe, as a function of named arrays.

    Without a recipe's configuration γ^t stands in front, as in `oracle.moments`, and the loss is a mean over
    trajectories. Entropy bonus and KL penalties are part of it; the critic's loss is not, nor what acts on the gradient
    afterwards (natural and trust-region steps, momentum, gradient clipping). Sampler and learner are one policy here:
    `max_mismatch` has nothing to weigh.

    Raises:
      SettingError: for a recipe with a control variate, which is made of single gradients and is no loss.
    """
    if isinstance(given, Recipe):
        algorithm, config = given
    else:
        algorithm = given if isinstance(given, Algorithm) else Algorithm(given, optimizer=None)
        config = Config(discounted_objective=True)
    if callable(algorithm.entropy_coefficient):
        algorithm = algorithm._replace(entropy_coefficient=algorithm.entropy_coefficient(0))
    if algorithm.control_variate is not None:
        raise SettingError("loss", name_of(algorithm.control_variate), "is a control variate, made of single gradients")
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
    "gae(λ=1)": partial(gae, lambda_=1.0),
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
FRONT = (False, True)  # γ^t in front: of `discounted_objective`
NEEDS_OTHERS = ("leave_one_out", "time_step")


class Product(NamedTuple):
    """credit × surrogate, by their names in the tables above."""

    credit: str
    front: bool
    surrogate: str

    def __str__(self) -> str:
        """The product as the library would write it."""
        return f"{'γ^t · ' if self.front else ''}{self.credit} × {self.surrogate}"


@lru_cache(maxsize=64)
def _slopes_program(credits: tuple[str, ...], surrogates: tuple[str, ...]) -> Callable:
    """Slopes in log π of all products, arrays [B, T, N, ...] -> [surrogates, 2, credits, B, T, N]; 2 for FRONT."""

    def one(arrays: dict[str, Array]) -> Array:
        signals = signals_of(**arrays)
        both = jax.tree.map(lambda *x: jnp.stack(x), signals, discounted_objective(signals))

        def of_all(signals: Signals) -> Array:
            return jnp.stack([jnp.broadcast_to(CREDITS[c](signals), signals.reward.shape) for c in credits])

        def slope(surrogate: Callable) -> Array:
            def total(x: Array, credit: Array) -> Array:
                return jnp.sum(signals.mask * surrogate(x, credit, signals.continues)) / signals.mask.shape[1]

            each = jax.vmap(jax.vmap(jax.grad(total), in_axes=(None, 0)), in_axes=(None, 0))
            return each(signals.log_ratio, psi)

        psi = jax.vmap(of_all)(both)
        return jnp.stack([slope(SURROGATES[name]) for name in surrogates])

    return jax.jit(jax.vmap(one, out_axes=3), compiler_options=QUICK)


class Equal(NamedTuple):
    """Products of the library with which a loss agrees, at one distance.

    Attributes:
      distance: between policy and behaviour policy.
      on_batches: name -> factor c with ĝ = c · (the product's estimate) on every batch of every problem.
      in_mean: names of those with which it agrees in the mean alone, without a factor.
    """

    distance: float
    on_batches: dict[str, float]
    in_mean: list[str]


def equal_to(found: list[tuple[Case, Estimates]], distance: float, *, exact: bool) -> Equal:
    """Compare a loss's estimates with those of every credit × surrogate.

    All are compared on problems of the commonest shape, one of varying length first; those that agree there on the
    others. On-policy the surrogates but `prefix_product` have one and the same gradient; there `score` stands for them.

    Args:
      found: a loss's estimates on every problem.
      distance: between policy and behaviour policy, of all.
      exact: their mean is ∇J; that others have this mean too is then not looked at.
    """
    horizon = max(case.problem.mdp.horizon for case, _ in found)
    alone = any(case.problem.batch_size < 2 for case, _ in found)
    surrogates = tuple(SURROGATES)
    offered = surrogates if distance else ("score", "prefix_product")
    credits = tuple(c for c in CREDITS if not (alone and any(x in c for x in NEEDS_OTHERS)))
    products = [Product(c, front, s) for s in offered for front in FRONT for c in credits]

    kept: list[_Agreement] = []
    varied = [case for case, _ in found if case_lengths_vary(case)] or [case for case, _ in found]
    shape = Counter(map(_shape, varied)).most_common(1)[0][0]
    for case, mine in sorted(found, key=lambda x: (_shape(x[0]) != shape, not case_lengths_vary(x[0]))):
        if _shape(case) != shape:  # a program for those that are left
            surrogates, credits = (
                tuple(dict.fromkeys(getattr(p, k) for p in products)) for k in ("surrogate", "credit")
            )
        theirs = _product_estimates(case, distance, horizon, products, surrogates, credits)
        now = [_agreement(mine, estimate) for estimate in theirs]
        kept = [_both(a, b) for a, b in zip(kept, now, strict=True)] if kept else now
        agreeing = [i for i, a in enumerate(kept) if a.factor is not None or (a.in_mean and not exact)]
        products, kept = [products[i] for i in agreeing], [kept[i] for i in agreeing]
        if not kept:
            break
    on_batches = {p: a.factor for p, a in zip(products, kept, strict=True) if a.factor is not None}
    in_mean = [p for p, a in zip(products, kept, strict=True) if a.factor is None]
    return Equal(distance, {str(p): f for p, f in on_batches.items() if _first(p, on_batches)}, _names(in_mean))


def _names(products: list[Product]) -> list[str]:
    return [str(p) for p in products if _first(p, products)]


def _first(product: Product, products: Iterable[Product]) -> bool:
    """Whether it is the one to name: not where γ^t in front makes no difference."""
    return not product.front or product._replace(front=False) not in products


def _shape(case: Case) -> tuple[int, int, bool]:
    return case.problem.batch_size, case.problem.mdp.reward.shape[1], case.problem.group_size > 1


def case_lengths_vary(case: Case) -> bool:
    """Whether some trajectory of the problem ends before another."""
    return bool((case.batches.rollouts.mask == 0).any())


class _Agreement(NamedTuple):
    factor: float | None  # ĝ = factor · theirs on every batch; None where there is no such number
    in_mean: bool


def _agreement(mine: Estimates, theirs: np.ndarray) -> _Agreement:
    size, square = float(np.abs(mine.gradient).max()), float(np.sum(theirs**2))
    factor = float(np.sum(theirs * mine.gradient)) / square if square > 0 else 0.0
    same = np.abs(mine.gradient - factor * theirs).max() < ROUNDING * size
    gap = np.abs(mine.mean - mine.probability @ theirs).max()
    return _Agreement(factor if same and factor else None, bool(gap < ROUNDING * size))


def _both(a: _Agreement, b: _Agreement) -> _Agreement:
    same = a.factor is not None and b.factor is not None and abs(a.factor - b.factor) < ROUNDING * abs(a.factor)
    return _Agreement(a.factor if same else None, a.in_mean and b.in_mean)


def _product_estimates(
    case: Case,
    distance: float,
    horizon: int,
    products: list[Product],
    surrogates: tuple[str, ...],
    credits: tuple[str, ...],
) -> list[np.ndarray]:
    """The estimate of every batch of each product, [B, P]."""
    data = batch_arrays(case.problem, case.batches, case.problem.logits, case.at(distance), SIGNAL_ARRAYS)
    arrays = signal_arrays(data)
    if case.problem.group_size == 1:
        arrays.pop("group")
    short = horizon - case.problem.mdp.horizon
    arrays = {  # equal shapes find the same program
        name: x if x.ndim < 3 else np.pad(x, ((0, 0), (0, short), *[(0, 0)] * (x.ndim - 2)))
        for name, x in arrays.items()
    }
    with jax.enable_x64(True):
        slope = in_chunks(_slopes_program(credits, surrogates), arrays, axis=3)
    action, state = data.action[:, :-1], data.state[:, :-1]
    taken = np.eye(case.problem.mdp.reward.shape[1])[action]
    picked = (
        slope[surrogates.index(p.surrogate), FRONT.index(p.front), credits.index(p.credit), :, : state.shape[1]]
        for p in products
    )
    return [logit_gradient(s[..., None] * taken, state, case.problem.logits) for s in picked]
