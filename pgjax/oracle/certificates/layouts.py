"""Layouts of a batch: time or batch first, padded on either side, or flat."""

from typing import NamedTuple

import numpy as np

from pgjax.oracle.certificates.arrays import PER_TRAJECTORY
from pgjax.types import SettingError

LAYOUTS = {
    "time_major": "[T, N], padding last",
    "batch_major": "[N, T], padding last (on the right)",
    "batch_major_left": "[N, T], padding first (on the left)",
    "flat": "[tokens], concatenated trajectories without padding; `lengths` has their lengths",
}


class Packing(NamedTuple):
    """Positions of the cells (t, n) in a layout, for batches with the same shape."""

    rows: np.ndarray  # indices of the batches, [b]
    cell: np.ndarray  # t · N + n of each position, [b, *shape]; T · N + n on the padding of trajectory n
    there: np.ndarray  # False on padding, [b, *shape]


def check_layout(layout: str, pad_to: str) -> None:
    """Raise a SettingError for an unknown layout or padding length."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise SettingError("layout", layout, f"must be one of {', '.join(LAYOUTS)}")
    if pad_to not in ("longest", "horizon"):
        raise SettingError("pad_to", pad_to, 'must be "longest" (the longest trajectory of the batch) or "horizon"')


def packings(mask: np.ndarray, layout: str, pad_to: str) -> list[Packing]:
    """Group batches with masks [B, T, N] by their shape in a layout; `pad_to` as in `certify`."""
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
    """Arrange an array [B, T + 1, N, ...] in the layout, [b, *shape, ...]; an array [B, N] keeps its shape.

    Padding is taken from the array's last row, or is `filler`.
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
    """Arrange [b, *shape, ...] as [b, T + 1, N, ...], with `shape` = (T + 1, N); padding is summed in row T."""
    flat = np.zeros((len(array), shape[0] * shape[1], *array.shape[packing.cell.ndim :]))
    np.add.at(flat, (_batch(packing), packing.cell), array)
    return flat.reshape(len(array), *shape, *flat.shape[2:])


def _batch(packing: Packing) -> np.ndarray:
    return np.arange(len(packing.rows)).reshape(-1, *[1] * (packing.cell.ndim - 1))
