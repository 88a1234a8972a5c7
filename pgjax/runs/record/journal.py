"""Writes the files of a run while it trains, and resumes it from them."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.engine import hosts
from pgjax.runs.record import checkpoints
from pgjax.runs.record.attempts import Attempts, in_words, say
from pgjax.runs.record.evaluation_file import COLUMNS, rows_of
from pgjax.runs.record.evaluation_file import NAME as EVALUATION
from pgjax.runs.record.loggers import LOGGERS, Logger
from pgjax.runs.record.metrics_file import FIRST_COLUMNS, GrowingFile, MetricsFile, mended
from pgjax.runs.record.provenance import differences, provenance
from pgjax.runs.record.texts import csv_text, read_bytes, write_text
from pgjax.runs.settings.config_file import LAYOUT_SETTINGS, recorded, settings_of_record
from pgjax.runs.settings.flags import Settings
from pgjax.sweeps import Runs, points_passed
from pgjax.sweeps.progress import last_return
from pgjax.training.guard import NONFINITE
from pgjax.types import SettingError

_TIMING = "update,env_steps,seconds,steps_per_second"


class Journal:
    """Writes metrics.csv, timing.csv, evaluation.csv, loggers and checkpoints of a run, in process 0. A checkpoint
    records the lengths of the tables, which are cut there on resume, so that no update appears twice.
    """

    def __init__(self, path: Path, settings: Settings, runs: Runs, attempt: Attempts):
        """Start at `runs`, or restore the newest checkpoint of the directory into `self.runs`."""
        self.runs, self.attempt = runs, attempt
        self._path, self._folder, self._settings = path, path / "checkpoints", settings
        self._provenance = provenance(runs.mesh)
        self._recorded = json.loads(json.dumps(recorded(settings)))
        self._say = say if hosts.is_first() else _nothing
        self.update = self.saved = 0  # most updates of any seed; the same at the last checkpoint
        there = checkpoints.paths(self._folder)
        newest = int(there[-1].name) if there else -1
        hosts.require_same("resume", newest, f"is not the newest checkpoint in all processes: {path} must be shared")
        checkpoint = checkpoints.newest(self._folder, self._say, checkpoints.RUN_RECORD)
        record: dict[str, Any] = {"metrics_bytes": 0, "timing_bytes": 0, "seconds": 0.0}
        self._highest = checkpoints.highest_score(self._folder)
        if checkpoint is not None:
            record = checkpoint.record
            self._compare(record)
            self.runs = runs._replace(**checkpoint.restore(_tree(runs)))
            if record["settings"].get("total_steps") != settings.total_steps:
                self.runs = self.runs._replace(algorithm=runs.algorithm)  # schedules over the new budget
            self.update = self.saved = checkpoint.number
        self.given_up = self._not_finite()
        self._evaluation: GrowingFile | None = None
        self._loggers: dict[str, Logger] = {}
        try:
            hosts.first_only(lambda: self._open_tables(record))
        except OSError as error:
            field = "resume" if settings.resume else "out"
            raise SettingError(field, str(path), f"cannot be written: {in_words(error)}") from error
        score = record.get("score")
        self._score = self._saved_score = score if isinstance(score, (int, float)) else float("nan")
        self._points = record.get("evaluations", 0)
        self._start = time.monotonic() - record["seconds"]
        self._last_save = time.monotonic()
        self._last: tuple[int, float] | None = None

    def _open_tables(self, record: dict[str, Any]) -> None:
        """Open the tables and loggers at the lengths of a checkpoint."""
        path = self._path
        metrics, timing = path / "metrics.csv", path / "timing.csv"
        self._metrics = MetricsFile(metrics, mended(metrics, record["metrics_bytes"], FIRST_COLUMNS))
        self._timing = GrowingFile(timing, mended(timing, record["timing_bytes"], _TIMING.split(",")[:3]))
        header = read_bytes(timing).partition(b"\n")[0].decode() if self._timing.length else _TIMING
        self._timing_columns = len(header.split(","))  # three in files of earlier versions
        self._evaluation = self._evaluation_file(record.get("evaluation_bytes", 0))
        for name in self._settings.log:
            try:
                self._loggers[name] = LOGGERS[name](path, self._recorded, self.saved)
            except Exception as error:
                say(f"warning: {path / name}: logging is disabled: {error}")

    def write(self, runs: Runs, metrics: dict[str, np.ndarray]) -> None:
        """Write a chunk: metrics by name, [R, updates], and the runs after it."""
        self.runs, self.update = runs, int(metrics["update"][:, -1].max())
        score = last_return(metrics)
        if self._settings.eval_every:
            self._score = float("nan")  # the new parameters are not evaluated yet
        elif not np.isnan(score):
            self._score = score
        steps, seconds = int(metrics["env_steps"][:, -1].sum()), time.monotonic() - self._start
        before, self._last = self._last, (steps, seconds)
        rate = (steps - before[0]) / (seconds - before[1]) if before and seconds > before[1] else float("nan")
        row = [[self.update, steps, seconds, rate][: self._timing_columns]] if hosts.is_first() else []
        self.attempt("metrics.csv", lambda: self._metrics.write(runs.seeds, metrics))
        self.attempt("timing.csv", lambda: self._timing.append(self._timing_header() + csv_text(row)))
        self._with_loggers(lambda logger: logger.write(runs.seeds, metrics))
        for r in sorted(self._not_finite() - self.given_up):
            self._post_mortem(r, metrics)

    def _timing_header(self) -> str:
        return "" if self._timing.length else f"{_TIMING}\n"

    def evaluation_due(self) -> bool:
        """Whether the steps have passed a multiple of `eval_every` since the last evaluation; False after training."""
        every, steps = self._settings.eval_every, hosts.fetch(self.runs.state.env_steps)
        ended = np.isin(np.arange(len(steps)), list(self._not_finite())) | (steps >= self._settings.total_steps)
        return bool(every) and not np.all(ended) and points_passed(steps, every) > self._points

    def evaluated(self, point: dict[str, np.ndarray]) -> None:
        """Write the rows of an evaluation and use it as the score of the next checkpoint."""
        self.score(point)
        self._points = points_passed(point["env_steps"], self._settings.eval_every)
        rows = rows_of(self.runs.seeds, point, final=False)
        self.attempt(EVALUATION, lambda: self._append_evaluation(rows))

    def score(self, point: dict[str, np.ndarray]) -> None:
        """Set the score of the current parameters: the greedy return, mean over seeds."""
        found = point["greedy_return"][np.isfinite(point["greedy_return"])]
        self._score = float(np.mean(found)) if found.size else float("nan")

    def end_evaluation(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write the table with the rows after training, which mark the run as finished until it is extended."""
        path = self._path / EVALUATION
        before = read_bytes(path)[: self._evaluation_bytes()].decode(errors="replace") if self._evaluation else ""
        write_text(path, (before or csv_text([COLUMNS])) + csv_text(rows))

    def is_best(self) -> bool:
        """Whether the last evaluation is better than that of every checkpoint."""
        return bool(self._settings.eval_every) and self._score > self._highest

    def due(self) -> bool:
        """Whether any process finds that `save_every` seconds have passed since the last checkpoint."""
        return bool(hosts.highest(int(time.monotonic() - self._last_save >= self._settings.save_every)))

    def save(self) -> bool:
        """Write a checkpoint, unless this update has one with its score, and delete old ones; False if it failed."""
        known = np.array_equal(self._score, self._saved_score, equal_nan=True)
        return (self.saved == self.update and known) or self.attempt.together("checkpoints", self._save)

    def close(self) -> None:
        """Close the loggers."""
        self._with_loggers(lambda logger: logger.close())

    def _with_loggers(self, action: Callable[[Logger], None]) -> None:
        """Call an action on every logger; one that fails is disabled, and the run continues."""
        for name, logger in list(self._loggers.items()):
            try:
                action(logger)
            except Exception as error:
                say(f"warning: {self._path / name}: logging is disabled: {error}")
                del self._loggers[name]

    def _not_finite(self) -> set[int]:
        """Indices of the runs that stopped after too many non-finite updates in a row."""
        skipped = hosts.fetch(self.runs.state.skipped_in_a_row)
        return set(np.flatnonzero(skipped >= self._settings.max_skipped).tolist())

    def _post_mortem(self, r: int, metrics: dict[str, np.ndarray]) -> None:
        """Save the state of a stopped run and print which quantity was not finite."""
        self.given_up.add(r)
        last = int(np.flatnonzero(metrics["active"][r])[-1])
        quantity, update = NONFINITE[int(metrics["nonfinite"][r, last])], int(metrics["update"][r, last])
        folder = self._path / "post-mortem"
        self._say(
            f"warning: seed {self.runs.seeds[r]} stopped at update {update}: {self._settings.max_skipped} updates in a "
            f"row were not finite ({quantity}); its state is in {folder}, the other seeds continue"
        )
        record = self._record()
        self.attempt.together(folder.name, lambda: checkpoints.save(folder, update, _tree(self.runs), record))

    def _evaluation_file(self, length: int) -> GrowingFile | None:
        """The table of evaluations, cut at the length of a checkpoint; None if there are none during training."""
        path = self._path / EVALUATION
        if self._settings.eval_every:
            return GrowingFile(path, mended(path, length, COLUMNS))
        path.unlink(missing_ok=True)
        return None

    def _append_evaluation(self, rows: Sequence[Sequence[Any]]) -> None:
        assert self._evaluation is not None  # called only with eval_every
        self._evaluation.append(csv_text([*([] if self._evaluation.length else [COLUMNS]), *rows]))

    def _evaluation_bytes(self) -> int:
        return self._evaluation.length if self._evaluation else 0

    def _save(self) -> None:
        self._last_save = time.monotonic()
        hosts.first_only(self._sync)
        checkpoints.save(self._folder, self.update, _tree(self.runs), self._record())
        self.saved, self._saved_score = self.update, self._score
        self._highest = max(self._highest, self._score) if np.isfinite(self._score) else self._highest
        hosts.first_only(lambda: checkpoints.prune(self._folder, self._settings.keep))

    def _sync(self) -> None:
        self._metrics.file.sync()
        self._timing.sync()
        if self._evaluation is not None:
            self._evaluation.sync()

    def _record(self) -> dict[str, Any]:
        """The JSON record of a checkpoint; that of process 0 is written."""
        first = hosts.is_first()
        return {
            "update": self.update,
            "env_steps": hosts.fetch(self.runs.state.env_steps).tolist(),
            "score": None if np.isnan(self._score) else self._score,
            "metrics_bytes": self._metrics.file.length if first else 0,
            "timing_bytes": self._timing.length if first else 0,
            "evaluation_bytes": self._evaluation_bytes(),
            "evaluations": self._points,
            "seconds": time.monotonic() - self._start,
            "settings": self._recorded,
            "provenance": self._provenance,
        }

    def _compare(self, record: dict[str, Any]) -> None:
        """Reject a checkpoint with other settings, and warn where results may not be reproduced bit for bit."""
        module = {"imports": self._settings.imports}  # the file of the module may have moved
        then = json.loads(json.dumps(recorded(settings_of_record(record["settings"] | module))))
        for name in sorted((set(then) | set(self._recorded)) - set(LAYOUT_SETTINGS)):
            if name == "total_steps" and then[name] < self._recorded[name]:
                continue
            if then.get(name) != self._recorded.get(name):
                reason = f"is in config.toml, but the checkpoint was written with {then.get(name)!r}; restore that"
                raise SettingError(name, self._recorded.get(name), reason)
        if changed := differences(record["provenance"], self._provenance):
            self._say(f"warning: the run continues, but results may differ in rounding: {changed}")


def _nothing(line: str) -> None:
    """Replace `say` in all processes but the first."""


def _tree(runs: Runs) -> dict[str, Any]:
    """All fields of the runs except the mesh."""
    return {name: value for name, value in runs._asdict().items() if name != "mesh"}
