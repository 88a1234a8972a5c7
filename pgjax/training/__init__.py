"""The loop: roll out, make a batch, differentiate its loss, move the parameters; evaluation and monitors."""

from pgjax.training.update import make_trainer, run_updates, train
