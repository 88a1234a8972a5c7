"""The loop: roll out, make a batch, differentiate its loss, move the parameters; evaluation and monitors."""

from pgjax.training.batch import collect, hold
from pgjax.training.loop import run_updates, train
from pgjax.training.update import learn, make_trainer
