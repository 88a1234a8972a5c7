"""Trained policies, each with a card that says how good it is and how it was made.

In policies/ a policy is three files: NAME.npz (parameters), NAME.toml (the card), NAME.csv (the learning curve of all
seeds). `experiments/pretrained.py` makes them of run directories and scores them again.
"""

from pgjax.pretrained.cards import Card, Evaluation, Score, measured, read_card
from pgjax.pretrained.load import FOLDER, Policy, card, load_policy
from pgjax.pretrained.load import names as list

__all__ = [
    "FOLDER",
    "Card",
    "Evaluation",
    "Policy",
    "Score",
    "card",
    "list",
    "load_policy",
    "measured",
    "read_card",
]
