"""Pretrained policies, each with a card that records its returns and how it was trained.

In policies/, NAME.npz has the parameters, NAME.toml the card, and NAME.csv the learning curves of all seeds.
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
