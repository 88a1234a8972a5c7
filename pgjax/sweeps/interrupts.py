"""Stop at the end of a chunk on Ctrl-C, because a chunk in progress has no state to keep."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        """Start without an interrupt."""
        self.pressed = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: record the first Ctrl-C, raise KeyboardInterrupt on the second."""
        if self.pressed:
            signal.default_int_handler(number, frame)
        self.pressed = True

    def __bool__(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.pressed


@contextmanager
def interrupt_noted() -> Iterator[Interrupt]:
    """Record Ctrl-C instead of raising KeyboardInterrupt, unless another signal handler is installed."""
    interrupt = Interrupt()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt.note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
