"""Ctrl-C as a wish to stop, granted at the end of a chunk: the state of one in flight cannot be kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        """Not yet."""
        self.asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first; the second is a KeyboardInterrupt at once."""
        if self.asked:
            signal.default_int_handler(number, frame)
        self.asked = True

    def __bool__(self) -> bool:
        """True once it was."""
        return self.asked


@contextmanager
def interrupt_noted() -> Iterator[Interrupt]:
    """Note Ctrl-C instead of dying of it, where Python's own handler would have; that of somebody else stays."""
    interrupt = Interrupt()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt.note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
