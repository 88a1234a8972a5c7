"""Training runs to disturb, and what tells whether they end alike."""

import hashlib
import os
import signal
import threading
import time

from pgjax.runs.record import checkpoints
from pgjax.runs.record.attempts import say

TINY = [
    *("--no-tuned", "--environment", "Catch-bsuite", "--seeds", "2", "--num-envs", "4", "--hidden", "4"),
    "--devices=2",
    *("--eval-episodes", "4", "--updates-per-chunk", "5"),
]
"""Two seeds of a tiny network: 36 steps an update; with --total-steps 36 n it makes n updates."""


class Process:
    """One run of train.py, forked from a server that has done the imports."""

    def __init__(self, server, errors, arguments):
        self._server, self._errors = server, errors
        errors.write_text("")
        server.stdin.write("\t".join([str(errors), *map(str, arguments)]) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())
        self._code = None
        self._end = threading.Thread(target=self._wait, daemon=True)
        self._end.start()

    def _wait(self):
        self._code = int(self._server.stdout.readline())

    def running(self):
        return self._end.is_alive()

    def end(self, timeout=200):
        """Its exit code; killed if it does not end."""
        self._end.join(timeout)
        if self.running():
            self.send(signal.SIGKILL)
            self._end.join()
            raise AssertionError(f"did not end by itself: {self.stderr}")
        return self._code

    def send(self, number):
        if self.running():
            os.kill(self.pid, number)

    @property
    def stderr(self):
        return self._errors.read_text()

    def wait_for(self, condition, timeout=200):
        """Wait until something holds, or the process has ended."""
        end = time.monotonic() + timeout
        while self.running() and not condition() and time.monotonic() < end:
            time.sleep(0.002)


def fingerprint(path):
    """A run's whole final state, bit for bit, and its metrics."""
    newest = checkpoints.newest(path / "checkpoints", say)
    metrics = (path / "metrics.csv").read_bytes()
    return newest.number, newest.record["leaves_sha256"], hashlib.sha256(metrics).hexdigest()
