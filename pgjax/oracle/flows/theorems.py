"""Convergence theorems as curves: the measured quantity and its bound with the problem's constants."""

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
    """A theorem: its claim, its source, and a function that runs it."""

    name: str
    claim: str  # the bound, as it is evaluated
    source: str
    kind: Kind  # rate of the bound
    run: Callable[[Discounted, np.ndarray], Checked]
    below: bool = False  # whether it is a lower bound
    bandit: bool = False  # whether it holds for one state only


def verify(theorem: Theorem, problems: list[Discounted], steps: np.ndarray) -> Checked:
    """Run a theorem's flow on several problems of one size, in float64. Returns arrays [problems, K].

    Rewards must lie in [0, 1], and every state needs a positive start probability; theorems of bandits need one state.

    >>> from pgjax.oracle.flows import garnet, moments
    >>> with jax.enable_x64(True):
    ...     found = verify(THEOREMS["natural"], [garnet(0), garnet(1)], moments(100, 5))
    >>> bool((found.measured <= found.bound).all())
    True
    """
    stacked = stack(problems)
    if np.min(stacked.reward) < 0 or np.max(stacked.reward) > 1:
        raise SettingError("reward", float(np.max(np.abs(stacked.reward))), "must lie in [0, 1] for this theorem")
    if np.min(stacked.initial) <= 0:
        raise SettingError("initial", float(np.min(stacked.initial)), "must be positive for every state")
    if theorem.bandit and stacked.reward.shape[1] != 1:
        raise SettingError(
            "problems", stacked.reward.shape[1], "states; this theorem holds for bandits, which have one state"
        )
    return jax.vmap(lambda problem: theorem.run(problem, steps))(jax.tree.map(jnp.asarray, stacked))


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
