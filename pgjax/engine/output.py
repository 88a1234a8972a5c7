"""Output that never fails: text that cannot be written or encoded (closed terminal, full disk, ASCII locale) does not
stop a run. Scripts call `open_output` first. Other code that writes to a terminal uses `unfailing`.
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
"""ASCII replacements of some characters. Greek letters become their names, box-drawing lines become - | +."""


def open_output() -> None:
    """Replace stdout and stderr by streams that never fail to write or encode."""
    sys.stdout, sys.stderr = unfailing(sys.stdout), unfailing(sys.stderr)


def unfailing(stream: TextIO | None) -> TextIO:
    """A text stream to the same file that drops what cannot be written. In-memory streams are returned unchanged."""
    if stream is None:  # closed before the process started
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
        """Write everything, or as much as possible."""
        view, done = memoryview(data).cast("B"), 0
        with contextlib.suppress(OSError, ValueError):
            while done < len(view):
                written = super().write(view[done:])
                if written is None:  # a non-blocking file: wait until it is writable
                    select.select([], [self], [])
                done += written or 0
        return len(view)


def plain(text: str) -> str:
    """Text in ASCII: "γ ≤ 1" becomes "gamma <= 1"."""
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
