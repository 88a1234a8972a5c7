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
    """Which cell stands in which place, for batches that have the same shape in this layout.

    Attributes:
      rows: which batches, [b].
      cell: t · N + n of each place, [b, *shape]; T · N + n on the padding of trajectory n.
      there: False on padding, [b, *shape].
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
    [[[4, 0], [1, 3]]]
    >>> packings(mask, "flat", "longest")[0].cell.tolist()
    [[0, 1, 3]]
    """
    length = mask.sum(1).astype(int)  # [B, N]
    horizon, count = mask.shape[1:]
    size = (
        length.sum(-1) if layout == "flat" else length.max(-1) if pad_to == "longest" else np.full(len(mask), horizon)
    )
    found = []
    for wanted in np.unique(size):
        rows = np.flatnonzero(size == wanted)
        if layout == "flat":
            _, n, t = np.nonzero(np.moveaxis(mask[rows], 1, 2) > 0)
            cell = (t * count + n).reshape(len(rows), wanted)
            found.append(Packing(rows, cell, np.ones(cell.shape, bool)))
            continue
        t = np.arange(wanted)[None, :, None] - (wanted - length[rows][:, None] if layout == "batch_major_left" else 0)
        there = (t >= 0) & (t < length[rows][:, None])  # [b, wanted, N]
        cell = np.where(there, t, horizon) * count + np.arange(count)
        if layout != "time_major":
            cell, there = np.moveaxis(cell, 1, 2), np.moveaxis(there, 1, 2)
        found.append(Packing(rows, cell, there))
    return found


def pack(packing: Packing, name: str, array: np.ndarray, filler: np.ndarray | float | None = None) -> np.ndarray:
    """An array [B, T + 1, N, ...] in the layout, [b, *shape, ...]; one of shape [B, N] stays as it is.

    On padding stands the array's last row, or `filler`.
    """
    mine = array[packing.rows]
    if name in PER_TRAJECTORY:
        return mine
    flat = mine.reshape(len(mine), -1, *mine.shape[3:])
    picked = flat[_batch(packing), packing.cell]
    if filler is not None:
        picked[~packing.there] = filler
    return picked


def unpack(packing: Packing, array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What stands in the layout as [b, *shape, ...], shape = (T + 1, N); a trajectory's padding is summed in row T."""
    flat = np.zeros((len(array), shape[0] * shape[1], *array.shape[packing.cell.ndim :]))
    np.add.at(flat, (_batch(packing), packing.cell), array)
    return flat.reshape(len(array), *shape, *flat.shape[2:])


def _batch(packing: Packing) -> np.ndarray:
    return np.arange(len(packing.rows)).reshape(-1, *[1] * (packing.cell.ndim - 1))
