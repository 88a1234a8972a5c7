"""Write a pretrained policy to files."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pgjax.pretrained import weights
from pgjax.pretrained.cards import Card, Evaluation
from pgjax.runs.record.files import file_name
from pgjax.runs.settings.config_file import as_toml
from pgjax.types import Params


def digest(params: Params) -> str:
    """SHA-256 of the parameter file: `Card.sha256`."""
    return hashlib.sha256(weights.as_bytes(params)).hexdigest()


def save_policy(folder: Path, card: Card, params: Params, curve: str) -> Path:
    """Write NAME.npz, NAME.csv (`curve`) and NAME.toml, the card last, and return the card's path.

    The same arguments give the same bytes. The card must hold the `digest` of the float32 parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_name(card.environment)}.toml"
    _write(folder / f"{file_name(card.environment)}.npz", weights.as_bytes(params))
    _write(folder / f"{file_name(card.environment)}.csv", curve.encode())
    _write(path, card_text(card).encode())
    return path


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def card_text(card: Card) -> str:
    """A card as TOML, for `read_card`."""
    table = asdict(card)
    evaluation: Evaluation = table["evaluation"]
    low, high = evaluation.interval()
    tables: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "evaluation": (
            f"this policy, greedy; the mean of {evaluation.episodes} other episodes is expected in "
            f"[{low:.6g}, {high:.6g}]",
            evaluation._asdict(),
        ),
        "score": (
            "all seeds: interquartile mean of their returns, and its 95 % bootstrap interval",
            table["score"]._asdict(),
        ),
        "settings": ("of the training run", table["settings"]),
        "versions": ("that trained it", table["versions"]),
    }
    lines = ['# A trained policy: pgjax.load_policy("' + card.environment + '")']
    lines += [f"{name} = {as_toml(value)}" for name, value in table.items() if name not in tables]
    for name, (comment, entries) in tables.items():
        lines += ["", f"[{name}]  # {comment}", *(f"{key} = {as_toml(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"
