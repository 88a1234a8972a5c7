"""Population-based training: the worst runs go on from the best ones, with hyperparameters moved a little.

Members train side by side for some updates (`run_updates` under `vmap`). Then each of the worst share of them takes
over the parameters, optimiser state and hyperparameters of one of the best (exploit), which is a gather along the axis
of runs, and multiplies every evolving hyperparameter by a random factor (explore). Training and gather are one compiled
program. Jaderberg et al. 2017. https://arxiv.org/abs/1711.09846

All that the next step needs is in `Runs`: the random numbers of an exploit step are drawn from a key and the number of
updates done, so a population that is saved and restored goes on to the bit as if it had not been.
"""

from pgjax.population.evolution import (
    OF_THE_MEMBER,
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
    "OF_THE_MEMBER",
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
