"""Sweeps: train seeds × hyperparameters in one compiled call, spread over devices."""

from pgjax.sweeps.evaluation import EVALUATION_KEY, RETURNS, evaluate_runs, evaluation_point, points_passed
from pgjax.sweeps.loop import advance, advanced, chunks, compiled, join, steps_of
from pgjax.sweeps.one_call import sweep
from pgjax.sweeps.results import SweepResult
from pgjax.sweeps.runs import Over, Runs, placed, start, take
from pgjax.sweeps.saved import load
from pgjax.training.sharing import plan

__all__ = [
    "EVALUATION_KEY",
    "RETURNS",
    "Over",
    "Runs",
    "SweepResult",
    "advance",
    "advanced",
    "chunks",
    "compiled",
    "evaluate_runs",
    "evaluation_point",
    "join",
    "load",
    "placed",
    "plan",
    "points_passed",
    "start",
    "steps_of",
    "sweep",
    "take",
]
