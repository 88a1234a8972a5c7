"""The training loop: collect a batch, compute its gradient, update the parameters; evaluation and diagnostics."""

from pgjax.training.batch import collect, hold
from pgjax.training.loop import run_updates, train
from pgjax.training.update import learn, make_trainer
