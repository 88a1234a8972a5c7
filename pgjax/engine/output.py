"""Text that leaves the process: what cannot be shown is no reason to stop, or to fail.

A terminal may hang up while a run goes on, a reader such as `head` may have gone, a disk that output is sent to may be
full, and a locale may know no more than ASCII. Scripts call `open_output` first; what else draws on a terminal asks for
`unfailing`.
"""

import codecs
import contextlib
import io
import os
import select
import sys
import unicodedata
from typing import Any, TextIO, cast

WORDS = {"×": "x", "−": "-", "–": "-", "—": "-", "·": "*", "→": "->", "≤": "<=", "≥": ">=", "∞": "inf", "±": "+-"}
"""What some signs are in ASCII; Greek letters become their names, lines of boxes become - | +."""


def open_output() -> None:
    """Let nothing that is printed from now on fail: neither where it goes, nor for a sign that is unknown there."""
    sys.stdout, sys.stderr = unfailing(sys.stdout), unfailing(sys.stderr)


def unfailing(stream: TextIO | None) -> TextIO:
    """A text stream that writes to the same file, and drops what cannot be written. Streams in memory stay as they are.

    >>> import tempfile
    >>> with open("/dev/full", "w") as full:
    ...     print("nobody reads this", file=unfailing(full), flush=True)
    """
    if stream is None:  # closed before the process began
        return open(os.devnull, "w", encoding="utf-8", errors=PLAIN)
    if not isinstance(stream, io.TextIOWrapper) or isinstance(getattr(stream.buffer, "raw", None), _Unfailing):
        return stream
    try:
        handle = stream.fileno()
    except (OSError, ValueError):
        return stream
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    buffer = io.BufferedWriter(cast(Any, _Unfailing(handle, "wb", closefd=False)))
    at_once = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, PLAIN, line_buffering=at_once, write_through=True)


class _Unfailing(io.FileIO):
    def write(self, data: Any) -> int:
        """Write all of it, or what can be written."""
        view, done = memoryview(data).cast("B"), 0
        with contextlib.suppress(OSError, ValueError):
            while done < len(view):
                written = super().write(view[done:])
                if written is None:  # the file does not wait, so this does
                    select.select([], [self], [])
                done += written or 0
        return len(view)


def plain(text: str) -> str:
    """Text in ASCII.

    >>> plain("γ = 0.9, 2 × 3 …"), plain("┏━┃"), plain("naïve 頁")
    ('gamma = 0.9, 2 x 3 ...', '+-|', 'naive ?')
    """
    return "".join(map(_in_ascii, text))


def _in_ascii(sign: str) -> str:
    if sign.isascii():
        return sign
    if sign in WORDS:
        return WORDS[sign]
    name = unicodedata.name(sign, "")
    if name.startswith("BOX DRAWINGS"):
        return "-" if name.endswith(" HORIZONTAL") else "|" if name.endswith(" VERTICAL") else "+"
    if name.startswith("GREEK") and " LETTER " in name:
        letter = name.partition(" LETTER ")[2].partition(" ")[0]
        return letter.lower() if "SMALL" in name else letter.capitalize()
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


PLAIN = "pgjax.plain"
codecs.register_error(PLAIN, _replace)
