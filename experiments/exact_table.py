"""Which estimators are exact, and at what variance? Every estimator's mean, bias and variance, by enumeration.

`--mdp FILE.json` takes a problem of your own: `initial` [S], `transition` [S, A, S] (a row's missing mass ends the
episode), `reward` [S, A], `horizon`, `discount`, `behaviour_logits` and `target_logits` [S, A]. `--json OUT.json`
writes all numbers. Without arguments a built-in example is shown as a table. Expect a bias of zero for every estimator
that is exact, and less variance the more an estimator knows. About half a minute; --quick is a horizon of 2 at most.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, oracle

FIELDS = ("initial", "transition", "reward", "horizon", "discount", "behaviour_logits", "target_logits")
EXAMPLE = {
    "initial": [0.6, 0.4],
    "transition": [[[0.6, 0.3], [0.2, 0.5]], [[0.3, 0.3], [0.1, 0.8]]],
    "reward": [[1.0, 0.0], [-0.5, 2.0]],
    "horizon": 4,
    "discount": 0.9,
    "behaviour_logits": [[0.2, -0.2], [0.0, 0.3]],
    "target_logits": [[0.6, -0.3], [-0.4, 0.5]],
}


@dataclass(frozen=True)
class Options:
    """Where the problem comes from and where the numbers go."""

    mdp: Path | None = None
    """A problem as JSON; default a built-in example."""
    json: Path | None = None
    """Write all numbers there."""
    quick: bool = False
    """Cut the horizon to 2 steps."""


def main(options: Options) -> None:
    """Read, enumerate, write, show."""
    given = EXAMPLE if options.mdp is None else read(options.mdp)
    with jax.enable_x64(True):
        mdp = oracle.make_mdp(*(given[name] for name in FIELDS[:5]))
        mdp = replace(mdp, horizon=min(mdp.horizon, 2)) if options.quick else mdp
        logits = {name: oracle.check_logits(mdp, name, given[name]) for name in FIELDS[5:]}
        result = oracle.exact_table(mdp, logits["target_logits"], logits["behaviour_logits"])
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def read(path: Path) -> dict[str, Any]:
    """The problem in a JSON file, all fields present."""
    try:
        given = json.loads(path.read_text())
    except OSError as error:
        raise SettingError("mdp", str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError("mdp", str(path), f"is not JSON: {error}") from error
    missing = [name for name in FIELDS if name not in given] if isinstance(given, dict) else list(FIELDS)
    if missing:
        raise SettingError("mdp", str(path), f"lacks {', '.join(missing)}")
    return given


def show(result: dict[str, Any]) -> None:
    """The table, for a person."""
    table = Table(title=f"{result['trajectories']} trajectories, J = {result['objective']:.6f}")
    table.add_column("estimator")
    for name in ("relative bias", "variance"):
        table.add_column(name, justify="right")
    for name, row in result["estimators"].items():
        bias, variance = row["relative_bias"], row["variance"]
        exact = "–" if bias is None else "0" if bias < 1e-12 else f"{bias:.4f}"
        table.add_row(name, exact, "too many pairs" if variance is None else f"{variance:.4f}")
        if name in ("grpo_2",):
            table.add_section()
    console = Console()
    console.print(table)
    gradient = np.array2string(np.asarray(result["gradient"]), precision=5, suppress_small=True)
    console.print(f"exact gradient {gradient}; the lower block samples from the behaviour policy", highlight=False)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="exact_table.py", description=__doc__))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
