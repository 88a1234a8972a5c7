"""SIGTERM, Ctrl-C and a terminal that hangs up as a wish to stop, granted where the work can be saved."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgjax.engine import hosts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A run ended early because it was asked to; `code` is what a shell expects: 128 + the signal's number."""

    def __init__(self, number: int, message: str):
        """Say in one line what was saved and how to go on."""
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")
        self.code = 128 + number


class StopRequest:
    """Whether the user, or the machine's owner, has asked this process to stop."""

    def __init__(self) -> None:
        """Nobody has yet."""
        self.number: int | None = None

    def __bool__(self) -> bool:
        """True once a signal has arrived."""
        return self.number is not None

    def note(self, number: int) -> None:
        """Remember the first signal."""
        self.number = number if self.number is None else self.number

    def agree(self) -> bool:
        """Whether one of the processes has been asked to stop, so that all do; together, if there are several."""
        agreed = hosts.highest(self.number or 0)
        self.number = agreed or None
        return agreed > 0

    def check(self, message: str) -> None:
        """Stop here if asked to; together, if there are several processes.

        Raises:
          Stopped: carrying the message.
        """
        self.agree()
        if self.number is not None:
            raise Stopped(self.number, message)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note these signals instead of dying of them; a second Ctrl-C ends the process at once.

    What was ignored before stays so, as SIGHUP under nohup.

    The main thread notes them as soon as it runs Python; and a thread reads them from a socket that the interpreter
    writes to at once, so that the second Ctrl-C works even in the middle of a long compilation.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
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
