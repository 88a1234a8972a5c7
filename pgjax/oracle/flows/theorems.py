"""Convergence theorems as curves: what each bounds, measured, beside its bound with the problem's own constants."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.oracle.flows import gradient_theorems, mirror_theorems, regularised_theorems
from pgjax.oracle.flows.checked import Checked
from pgjax.oracle.flows.problems import Discounted, stack
from pgjax.oracle.flows.rates import Kind
from pgjax.types import SettingError


class Theorem(NamedTuple):
    """What is claimed, where, and how to run it."""

    name: str
    claim: str  # the bound, as it is evaluated
    source: str
    kind: Kind  # how the bound falls
    run: Callable[[Discounted, np.ndarray], Checked]
    below: bool = False  # a lower bound
    bandit: bool = False  # of one state alone


def verify(theorem: Theorem, problems: list[Discounted], steps: np.ndarray) -> Checked:
    """Run a theorem's flow on several problems of one size; arrays [problems, K]. In float64.

    Raises:
      SettingError: for problems that it is not about: rewards outside [0, 1], a start that misses a state, more than
        one state where it is about bandits.

    >>> from pgjax.oracle.flows import garnet, moments
    >>> with jax.enable_x64(True):
    ...     found = verify(THEOREMS["natural"], [garnet(0), garnet(1)], moments(100, 5))
    >>> bool((found.measured <= found.bound).all())
    True
    """
    whole = stack(problems)
    if np.min(whole.reward) < 0 or np.max(whole.reward) > 1:
        raise SettingError("reward", float(np.max(np.abs(whole.reward))), "must lie in [0, 1] for this theorem")
    if np.min(whole.initial) <= 0:
        raise SettingError("initial", float(np.min(whole.initial)), "must give every state some probability")
    if theorem.bandit and whole.reward.shape[1] != 1:
        raise SettingError("problems", whole.reward.shape[1], "states; this theorem is about bandits, which have one")
    return jax.vmap(lambda problem: theorem.run(problem, steps))(jax.tree.map(jnp.asarray, whole))


_ALL = (
    Theorem("softmax", "16 S M²/(c² (1−γ)⁵ k)", "Mei 2020, theorem 4", "power", gradient_theorems.softmax),
    Theorem("softmax_bandit", "5/(c² k)", "Mei 2020, lemma 4", "power", gradient_theorems.softmax_bandit, bandit=True),
    Theorem(
        "softmax_bandit_lower",
        "≥ 1/(1/δ₀ + 12k/7)",
        "after Mei 2020, theorem 9",
        "power",
        gradient_theorems.softmax_bandit_lower,
        below=True,
        bandit=True,
    ),
    Theorem("normalised", "δ₀ exp(−C k)", "after Mei 2021", "linear", gradient_theorems.normalised),
    Theorem(
        "normalised_bandit",
        "δ₀ exp(−c k/12)",
        "after Mei 2021",
        "linear",
        gradient_theorems.normalised_bandit,
        bandit=True,
    ),
    Theorem("escort", "1/(1/δ₀ + g² Σα/2)", "after Mei 2020b", "power", gradient_theorems.escort),
    Theorem("entropy", "δ₀ (1 − C)^k", "Mei 2020, theorem 6", "linear", regularised_theorems.entropy),
    Theorem("soft_natural", "γ^k max (V*−V₀)", "Cen 2022, theorem 1", "linear", regularised_theorems.soft_natural),
    Theorem(
        "log_barrier",
        "‖∇L‖² ≤ 2β/((1−γ)(k+1))",
        "Agarwal 2021, corollary 5.1",
        "power",
        regularised_theorems.log_barrier,
    ),
    Theorem(
        "log_barrier_gap",
        "2λ M/(1−γ) once ‖∇L‖ is small",
        "Agarwal 2021, theorem 5.2",
        "power",
        regularised_theorems.log_barrier_gap,
    ),
    Theorem("natural", "(log A/η + 1/(1−γ)²)/k", "Agarwal 2021, theorem 5.3", "power", mirror_theorems.natural),
    Theorem(
        "mirror_euclidean",
        "(D₀/(η(1−γ)) + 1/(1−γ)²)/(k+1)",
        "Xiao 2022, theorem 8",
        "power",
        mirror_theorems.mirror_euclidean,
    ),
    Theorem("mirror_growing", "(1−1/ϑ)^k (δ₀ + …)", "Xiao 2022, theorem 10", "linear", mirror_theorems.mirror_growing),
    Theorem("projected", "64 γ S A M²/((1−γ)⁵ k)", "after Xiao 2022, theorem 2", "power", mirror_theorems.projected),
)
THEOREMS: dict[str, Theorem] = {theorem.name: theorem for theorem in _ALL}
