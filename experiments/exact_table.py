"""Which estimators are exact, and at what variance? Mean, bias and variance of every estimator, by enumeration.

Without arguments the problem is a built-in example. `--mdp FILE.json` reads another one: `initial` [S], `transition`
[S, A, S] (missing mass ends the episode), `reward` [S, A], `horizon`, `discount`, `behaviour_logits` and
`target_logits` [S, A]. `--json OUT.json` writes all numbers. Expect a bias of zero for every exact estimator, and a
smaller variance for estimators with more information. About half a minute; --quick limits the horizon to 2.

`--updates` prints the table of updates instead. It compares the parameters that `pgjax.learn` returns for every batch
with an update in NumPy loops (`parts/plain_updates.py`, which does not import pgjax). It does so for every method and
every path of a batch through training: held, replayed in slices, minibatches, groups, devices, engines. Expect
rounding differences, or a path that is rejected by name. The exit status is 1 if a difference exceeds 1e-10. `--only`
and `--paths` select methods and paths by a part of their names, `--actions` the kind of action.
"""

import json
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

if "--updates" in sys.argv:  # five hundred short programs compile faster without LLVM's optimiser
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import numpy as np
from parts.command import as_script
from parts.tables import wrapped
from rich.console import Console
from rich.table import Table

from pgjax import SettingError, oracle, use_cpu_devices
from pgjax.runs.record.texts import read_json, write_text

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
    """Options: the problem, and where numbers are written."""

    mdp: Path | None = None
    """JSON file with a problem; default a built-in example."""
    json: Path | None = None
    """JSON file for all numbers."""
    quick: bool = False
    """Limit the horizon to 2 steps; with --updates, use held batches only."""
    updates: bool = False
    """Print the table of updates instead, on built-in problems."""
    only: str = ""
    """With --updates: only methods whose name contains this text."""
    paths: str = ""
    """With --updates: only paths whose name contains this text."""
    actions: Literal["one", "joint", "masked"] = "one"
    """With --updates: one discrete action of two choices; nested parts of several kinds, one of them masked, with a
    product of softmaxes as policy; or one discrete action with a mask."""


def main(options: Options) -> int:
    """Read the problem, enumerate, write and print; returns the exit status."""
    if options.updates:
        return updates(options)
    for name, default in (("only", ""), ("paths", ""), ("actions", "one")):
        if getattr(options, name) != default:
            raise SettingError(name, getattr(options, name), "selects rows of the table of updates; add --updates")
    with jax.enable_x64(True):
        mdp, logits = problem(options)
        result = oracle.exact_table(mdp, logits["target_logits"], logits["behaviour_logits"])
    if options.json is not None:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    show(result)
    return 0


def problem(options: Options) -> tuple[oracle.MDP, dict[str, np.ndarray]]:
    """The MDP of the options, and the logits of both policies by name."""
    given = EXAMPLE if options.mdp is None else read(options.mdp)
    mdp = oracle.make_mdp(*(given[name] for name in FIELDS[:5]))
    mdp = replace(mdp, horizon=min(mdp.horizon, 2)) if options.quick else mdp
    return mdp, {name: oracle.check_logits(mdp, name, given[name]) for name in FIELDS[5:]}


def updates(options: Options) -> int:
    """Print the table of updates, row by row."""
    from parts import update_table

    if options.mdp is not None:
        raise SettingError("mdp", str(options.mdp), "is not used with --updates, which has built-in problems")
    use_cpu_devices(4)
    started, rows = time.perf_counter(), []
    elsewhere = (
        nullcontext() if options.actions == "one" else update_table.acting(update_table.ACTIONS[options.actions])
    )
    with jax.enable_x64(True), elsewhere:
        for case, path in chosen(update_table, options):
            rows.append(update_table.row(case, path))
            if len(rows) == 1 or rows[-2].case != rows[-1].case:
                print(rows[-1].case)
            print(line(rows[-1]), flush=True)
    kept = [r for r in rows if r.refused is None]
    red = sum(r.red for r in rows)
    print(
        f"{len(kept)} updates of {sum(r.batches * r.deals for r in kept)} batches: {red} differ; "
        f"{len(rows) - len(kept)} rejected\nlargest difference of the others "
        f"{max((max(r.expected, r.each) for r in kept if not r.red), default=0.0):.1e}; "
        f"{(time.perf_counter() - started) / 60:.1f} minutes"
    )
    if options.json is not None:
        write_text(options.json, json.dumps([vars(r) for r in rows], indent=1) + "\n")
    return int(red > 0)


def chosen(table: Any, options: Options) -> list[tuple[Any, Any]]:
    """The selected rows."""
    found = [
        (case, path)
        for case in table.cases().values()
        for path in table.paths_of(case)
        if options.only in case.label and options.paths in path.label and (not options.quick or path.label == "held")
    ]
    if not found:
        raise SettingError("only", f"{options.only} {options.paths}".strip(), "matches no method and path")
    return found


def line(row: Any) -> str:
    """One row as text."""
    start = f"  {row.path}\n      "
    if row.refused is not None:
        return wrapped(f"  {row.path}: rejected: {row.refused}")
    if row.failed is not None:
        return f"{start}DIFFERS: {row.failed}"
    deals = f" × {row.deals} deals" if row.deals > 1 else ""
    bias = "" if row.bias is None else f"  bias {'0' if row.bias < 1e-12 else f'{row.bias:.3f}'}"
    verdict = "  DIFFERS" if row.red else ""
    return f"{start}{row.batches:>5} batches{deals:<11}expected {row.expected:.0e}  each {row.each:.0e}{bias}{verdict}"


def read(path: Path) -> dict[str, Any]:
    """The problem in a JSON file, with all fields present."""
    try:
        given = read_json(path)
    except OSError as error:
        raise SettingError("mdp", str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError("mdp", str(path), f"is not JSON: {error}") from error
    missing = [name for name in FIELDS if name not in given] if isinstance(given, dict) else list(FIELDS)
    if missing:
        raise SettingError("mdp", str(path), f"lacks {', '.join(missing)}")
    return given


def show(result: dict[str, Any]) -> None:
    """Print the table."""
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
    as_script(main, Options, __doc__)
