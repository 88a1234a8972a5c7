"""How a batch is laid out for a loss: time first or batch first, padded on one side or the other, or flat."""

from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.arrays import PER_TRAJECTORY
from pgjax.types import SettingError

LAYOUTS = {
    "time_major": "[T, N], padding last",
    "batch_major": "[N, T], padding last (on the right)",
    "batch_major_left": "[N, T], padding first (on the left)",
    "flat": "[tokens], trajectory after trajectory without padding; `lengths` says where they end",
}


class Packing(NamedTuple):
    """Which cell of [T, N] stands in which place, for batches that have the same shape in this layout.

    Attributes:
      rows: which batches, [b].
      cell: t · N + n of each place, [b, *shape].
      there: False where the place is padding, [b, *shape].
    """

    rows: np.ndarray
    cell: np.ndarray
    there: np.ndarray


def check_layout(layout: str, pad_to: str) -> None:
    """Raise a SettingError for a layout, or a length to pad to, that does not exist."""
    if layout not in LAYOUTS:
        raise SettingError("layout", layout, f"is none of {', '.join(LAYOUTS)}")
    if pad_to not in ("longest", "horizon"):
        raise SettingError("pad_to", pad_to, 'is neither "longest" (trajectory of the batch) nor "horizon"')


def packings(mask: np.ndarray, layout: str, pad_to: str) -> list[Packing]:
    """Sort batches by their shape in a layout.

    Args:
      mask: [B, T, N].
      layout: a name in LAYOUTS.
      pad_to: "longest" pads to the longest trajectory of the batch, "horizon" to T.

    >>> mask = np.array([[[1, 1], [0, 1]]])  # one batch, of lengths 1 and 2
    >>> packings(mask, "batch_major_left", "longest")[0].cell.tolist()
    [[[0, 0], [1, 3]]]
    >>> packings(mask, "flat", "longest")[0].cell.tolist()
    [[0, 1, 3]]
    """
    length = mask.sum(1).astype(int)  # [B, N]
    horizon, count = mask.shape[1:]
    size = length.sum(-1) if layout == "flat" else length.max(-1) if pad_to == "longest" else np.full(len(mask), horizon)
    found = []
    for wanted in np.unique(size):
        rows = np.flatnonzero(size == wanted)
        if layout == "flat":
            batch, n, t = np.nonzero(np.moveaxis(mask[rows], 1, 2) > 0)
            cell = (t * count + n).reshape(len(rows), wanted)
            found.append(Packing(rows, cell, np.ones(cell.shape, bool)))
            continue
        t = np.arange(wanted)[None, :, None] - (wanted - length[rows][:, None] if layout == "batch_major_left" else 0)
        there = (t >= 0) & (t < length[rows][:, None])  # [b, wanted, N]
        cell = np.clip(t, 0, horizon - 1) * count + np.arange(count)
        if layout != "time_major":
            cell, there = np.moveaxis(cell, 1, 2), np.moveaxis(there, 1, 2)
        found.append(Packing(rows, np.broadcast_to(cell, there.shape), there))
    return found


def pack(packing: Packing, name: str, array: np.ndarray, filler: float = 0.0) -> np.ndarray:
    """An array [B, T, N, ...] in the layout, [b, *shape, ...], `filler` on padding; [B, N] stays as it is."""
    mine = array[packing.rows]
    if name in PER_TRAJECTORY:
        return mine
    flat = mine.reshape(len(mine), -1, *mine.shape[3:])
    picked = flat[np.arange(len(mine)).reshape(-1, *[1] * (packing.cell.ndim - 1)), packing.cell]
    there = packing.there.reshape(*packing.there.shape, *[1] * (picked.ndim - packing.there.ndim))
    return np.where(there, picked, np.asarray(filler, picked.dtype))


def unpack(packing: Packing, array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What stands in the layout back in [b, T, N, ...]; padding is dropped and 0."""
    rest = array.shape[packing.cell.ndim :]
    flat = np.zeros((len(array), shape[0] * shape[1] + 1, *rest))  # the last cell takes what stands on padding
    cell = np.where(packing.there, packing.cell, shape[0] * shape[1])
    flat[np.arange(len(array)).reshape(-1, *[1] * (cell.ndim - 1)), cell] = array
    return flat[:, :-1].reshape(len(array), *shape, *rest)
