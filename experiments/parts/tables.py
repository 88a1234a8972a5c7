"""Tables as text that fits the terminal; columns beyond its width follow below, with the first column repeated."""

import shutil
import textwrap
from collections.abc import Sequence

GAP = "  "


def fitted(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows as aligned text, the first column to the left and the others to the right; the first row is the header.

    Args:
      rows: of equal length.
      width: of the terminal; default its own, or 80 without one.

    >>> print(fitted([("shape", "steps/s", "return"), ("small", "52k", "33.8")], width=15))
    shape  steps/s
    small      52k
    <BLANKLINE>
    shape  return
    small    33.8
    """
    width = shutil.get_terminal_size().columns if width is None else width
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    blocks: list[list[int]] = [[]]
    for i in range(1, len(widths)):
        taken = widths[0] + sum(len(GAP) + widths[j] for j in [*blocks[-1], i])
        if taken > width and blocks[-1]:
            blocks.append([])
        blocks[-1].append(i)

    def line(row: Sequence[str], block: Sequence[int]) -> str:
        return GAP.join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in block)]).rstrip()

    return "\n\n".join("\n".join(line(row, block) for row in rows) for block in blocks)


def wrapped(text: str) -> str:
    """Text wrapped to the width of the terminal."""
    return textwrap.fill(text, shutil.get_terminal_size().columns, break_on_hyphens=False, break_long_words=False)
