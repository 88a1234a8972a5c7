"""Reads logged trajectories from an .npz file, checks them and converts them to signals."""

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pgjax.estimators.returns import make_signals
from pgjax.runs.record.texts import read_bytes
from pgjax.types import SettingError, Signals

NEEDED, FLAGS, CRITIC = ("reward", "log_prob", "target_log_prob"), ("mask", "terminated"), ("value", "action_value")

_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def read_log(path: Path, discount: float = 1.0) -> Signals:
    """Trajectories of a log as signals, [T, N]; in float64 if that is enabled.

    Args:
      path: an .npz file of arrays [T, N] with one complete episode per column; other arrays and padding are ignored.
        Required are `reward`, `log_prob` (of the taken actions under the behaviour policy) and `target_log_prob` (under
        the target policy; −inf for actions that it never takes). Optional are `mask` (1 on executed steps, which come
        first), `terminated` (1 where an episode terminated) and, both or none, `action_value` Q̃(s_t, a_t) and `value`
        Σ_a π(a|s_t) Q̃(s_t, a_t) of a critic.
      discount: γ.

    Raises:
      SettingError: for an invalid file; it names the array, the entry and the reason.
    """
    arrays = _read(path)
    check_log(arrays)
    taken = arrays.get("action_value")
    return make_signals(
        arrays["reward"],
        mask=arrays.get("mask"),
        terminated=arrays.get("terminated"),
        discount=discount,
        value=arrays.get("value"),
        log_ratio=arrays["target_log_prob"] - arrays["log_prob"],
        action_value=None if taken is None else taken[..., None],
        action=None if taken is None else jnp.zeros(arrays["reward"].shape, int),
    )


def check_log(arrays: dict[str, np.ndarray]) -> None:
    """Reject arrays that are not complete episodes with weights and returns.

    Raises:
      SettingError: naming the array, the entry and the reason.
    """
    for name in NEEDED:
        if name not in arrays:
            raise SettingError(name, None, "is missing from the log")
    for name, other in (CRITIC, CRITIC[::-1]):
        if name in arrays and other not in arrays:
            raise SettingError(other, None, f"is missing from the log, which has {name}; doubly robust needs both")
    shape = arrays["reward"].shape
    if len(shape) != 2 or 0 in shape:
        raise SettingError("reward", shape, "is its shape; it must be [T, N], one whole episode per column")
    if shape[1] < 2:
        raise SettingError("reward", shape, "is its shape; an interval needs at least 2 trajectories")
    for name, array in arrays.items():
        if array.shape != shape:
            raise SettingError(name, array.shape, f"is its shape; reward asks for {shape}")
    _check_flags(arrays)
    _check_numbers(arrays, arrays.get("mask", np.ones(shape)) > 0)


def _check_flags(arrays: dict[str, np.ndarray]) -> None:
    mask = arrays.get("mask", np.ones(arrays["reward"].shape))
    for name in FLAGS:
        if name in arrays:
            _refuse(name, arrays[name], ~np.isin(arrays[name], (0.0, 1.0)), "is neither 0 nor 1")
    _refuse("mask", mask[:1], mask[:1] == 0, "must be 1: the trajectory needs a first step")
    _refuse("mask", mask, np.diff(mask, axis=0, prepend=1.0) > 0, "follows a 0; executed steps must come first")
    if "terminated" in arrays:
        last = mask > np.append(mask[1:], np.zeros_like(mask[:1]), axis=0)
        _refuse("terminated", arrays["terminated"], (arrays["terminated"] > 0) & ~last, "is not at the last step")


def _check_numbers(arrays: dict[str, np.ndarray], executed: np.ndarray) -> None:
    for name in (*NEEDED, *CRITIC):
        if name in arrays:
            array = arrays[name]
            good = np.isfinite(array) | (np.isneginf(array) if name == "target_log_prob" else False)
            _refuse(name, array, ~good & executed, "is not a finite number")
    if np.all(np.any(np.isneginf(arrays["target_log_prob"]) & executed, axis=0)):
        raise SettingError("target_log_prob", float("-inf"), "is in every trajectory: all weights are 0")


def _refuse(name: str, array: np.ndarray, bad: ArrayLike, reason: str) -> None:
    """Raise for the first bad entry of an array."""
    if np.any(bad):
        where = np.argwhere(bad)[0].tolist()
        raise SettingError(f"{name}{where}", float(array[*where]), reason)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a log in a file, as float64."""
    try:
        file = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except FileNotFoundError as error:
        raise SettingError("log", str(path), "does not exist") from error
    except OSError as error:
        raise SettingError("log", str(path), f"cannot be read: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise SettingError("log", str(path), "is not an .npz file; np.savez writes one") from error
    if isinstance(file, np.ndarray):
        raise SettingError("log", str(path), "is a single array; np.savez writes several by name")
    with file:
        known = [name for name in (*NEEDED, *FLAGS, *CRITIC) if name in file.files]
        return {name: _numbers(name, lambda name=name: file[name]) for name in known}


def _numbers(name: str, load: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        array = load()
    except _UNREADABLE as error:
        raise SettingError(name, None, "cannot be read: damaged, or made of Python objects") from error
    if array.dtype.kind not in "biuf":
        raise SettingError(name, str(array.dtype), "is its type; it must hold real numbers")
    return array.astype(np.float64)
