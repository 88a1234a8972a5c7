"""Population-based training: the worst runs continue from the best ones, with perturbed hyperparameters.

Members train in parallel for some updates (`run_updates` under `vmap`). Then each of the worst members copies the
parameters, optimiser state and hyperparameters of one of the best (exploit), and multiplies every evolving
hyperparameter by a random factor (explore). Random numbers depend only on a key and the number of updates done, so a
restored population continues bit for bit. Source: Jaderberg et al. 2017. https://arxiv.org/abs/1711.09846
"""

from pgjax.population.evolution import (
    KEPT_BY_MEMBER,
    Evolution,
    evolved,
    exploit,
    explore,
    last_score,
    sources,
)
from pgjax.population.lineage import PARENT, ancestry, lineage
from pgjax.population.train import chunks, start

__all__ = [
    "KEPT_BY_MEMBER",
    "PARENT",
    "Evolution",
    "ancestry",
    "chunks",
    "evolved",
    "exploit",
    "explore",
    "last_score",
    "lineage",
    "sources",
    "start",
]
