"""SIGINT, SIGTERM and SIGHUP as requests to stop at the next point where the run can be saved."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgjax.engine import hosts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A run that was stopped by a signal; `code` is the exit status, 128 + the signal's number."""

    def __init__(self, number: int, message: str):
        """Make the message: what was saved and how to resume."""
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")
        self.code = 128 + number


class StopRequest:
    """Whether this process has received a signal to stop."""

    def __init__(self) -> None:
        """Start without a request."""
        self.number: int | None = None

    def __bool__(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    def note(self, number: int) -> None:
        """Record the first signal."""
        self.number = number if self.number is None else self.number

    def agree(self) -> bool:
        """Whether any process has received a signal. All processes of a distributed run must call it."""
        agreed = hosts.highest(self.number or 0)
        self.number = agreed or None
        return agreed > 0

    def check(self, message: str) -> None:
        """Raise Stopped if any process has received a signal. All processes of a distributed run must call it."""
        self.agree()
        if self.number is not None:
            raise Stopped(self.number, message)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record SIGINT, SIGTERM and SIGHUP instead of ending the process; a second Ctrl-C ends it at once.

    Signals that were ignored before, such as SIGHUP under nohup, stay ignored. A thread reads signals from a socket
    (`signal.set_wakeup_fd`), so that a second Ctrl-C works even during a long compilation.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only that thread may set signal handlers
        yield request
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_listen, args=(reader, request), daemon=True)
    thread.start()
    old_writer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    noted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    old = {number: signal.signal(number, lambda number, _: request.note(number)) for number in noted}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_writer)
        writer.close()
        thread.join()
        reader.close()


def _listen(reader: socket.socket, request: StopRequest) -> None:
    asked = False
    while data := reader.recv(1):
        number = data[0]
        if number == signal.SIGINT and asked:
            os._exit(128 + number)
        if number in SIGNALS:
            asked = True
            request.note(number)
