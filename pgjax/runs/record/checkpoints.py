"""Checkpoints: a pytree of arrays and a JSON record, written atomically and verified when read.

A checkpoint is a folder `<number>/` with `leaves/arrays.npz` and `record.json`, which has SHA-256 hashes of both. The
folder gets its name only after all bytes are on disk.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.counters import LARGEST
from pgjax.engine import hosts
from pgjax.runs.record.texts import read_json
from pgjax.types import SettingError

FORMAT = 2  # format 1, of earlier versions, has arrays written by orbax
ARRAYS = "arrays.npz"
_PREFIX = "leaf/"  # of array names in the file, because savez has arguments such as `file`
ROOM = 1 << 20  # bytes on disk beyond the arrays themselves


RUN_RECORD = {"settings": dict, "provenance": dict, "metrics_bytes": int, "timing_bytes": int, "seconds": (int, float)}
"""Entries, with their types, that the record of a training run must have to be resumed."""


class Damaged(Exception):
    """A checkpoint that is incomplete or corrupt, with the reason."""


class Checkpoint(NamedTuple):
    """A verified checkpoint: its number, JSON record, and leaves by name (PRNG keys as key data)."""

    number: int
    record: dict[str, Any]
    leaves: dict[str, np.ndarray]

    def restore(self, like: Any) -> Any:
        """The saved pytree with the structure, devices and key types of `like`; names, shapes and types must match."""
        names, values = zip(*_named(like).items(), strict=True)
        for name in sorted(set(names) ^ set(self.leaves)):
            where = "is not in the checkpoint" if name in names else "is in the checkpoint only"
            raise SettingError("checkpoint", name, f"{where}: it was written by another version or with other settings")
        leaves = [_like(name, self.leaves[name], value) for name, value in zip(names, values, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


def save(folder: Path, number: int, tree: Any, record: Mapping[str, Any]) -> None:
    """Write a checkpoint; one with the same number is replaced. All processes must call it; process 0 writes. `number`
    is for example the update; the highest is the newest. Arrays include typed PRNG keys. `record` holds further JSON
    entries; `score` determines the best checkpoint. After an OSError existing checkpoints are unchanged.
    """
    leaves = {name: hosts.fetch(value) for name, value in _named(tree).items()}
    temporary, final = folder / f".writing-{number}", folder / _name(number)

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".writing-*"):  # left by a process that was killed
            _remove(left)
        temporary.mkdir()
        _reserve(temporary / "room", sum(array.nbytes for array in leaves.values()) + ROOM)

    def complete() -> None:
        whole = _whole_record(leaves, {"number": number, **record})
        (temporary / "record.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        for path in [*temporary.rglob("*"), temporary]:
            _sync(path)
        aside = folder / f".writing-{number}-before"
        if final.exists() or final.is_symlink():
            final.rename(aside)
        temporary.rename(final)
        _sync(folder)
        _remove(aside)

    def write() -> None:
        prepare()
        _write_leaves(temporary / "leaves", leaves)
        complete()

    try:
        hosts.first_only(write)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _whole_record(leaves: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    shapes = {name: [str(array.dtype), list(array.shape)] for name, array in leaves.items()}
    whole = {"format": FORMAT, "leaves": shapes, "leaves_sha256": _hash_of_leaves(leaves), **record}
    whole["record_sha256"] = _hash_of_record(whole)
    return whole


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint; raises Damaged unless it matches its hash and the folder's name."""
    try:
        record = read_json(path / "record.json")
        if record["record_sha256"] != _hash_of_record(record):
            raise Damaged("its record does not match its hash")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("its record cannot be read") from error
    _require(record, {"format": int, "leaves": dict, "leaves_sha256": str})
    if record["format"] not in (1, FORMAT):
        raise Damaged(f"it has format {record['format']}, this version reads 1 and {FORMAT}")
    number = record.get("number", record.get("update", int(path.name)))  # earlier versions wrote only `update`
    if number != int(path.name):
        raise Damaged(f"it was saved as number {number}")
    return record


def read(path: Path) -> Checkpoint:
    """A checkpoint; raises Damaged unless its arrays and record match their hashes."""
    record = read_record(path)
    if any(not (inside.is_file() or inside.is_dir()) for inside in path.rglob("*")):
        raise Damaged("it holds something that is not a file")  # opening a pipe would block
    try:
        like = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in record["leaves"].items()}
        leaves = (_read_leaves if record["format"] == FORMAT else _read_leaves_of_orbax)(path / "leaves", like)
    except Exception as error:  # numpy, zipfile and orbax raise many types for damaged files
        raise Damaged("its arrays cannot be read") from error
    if _hash_of_leaves(leaves) != record["leaves_sha256"]:
        raise Damaged("its arrays do not match their hash")
    return Checkpoint(int(path.name), record, leaves)


def paths(folder: Path) -> list[Path]:
    """Paths of the checkpoints in a folder, oldest first, not verified."""
    there = [p for p in folder.glob("[0-9]*") if re.fullmatch("[0-9]{8,10}", p.name) and p.is_dir()]
    named = [p for p in there if p.name == _name(int(p.name)) and int(p.name) <= LARGEST]
    return sorted(named, key=lambda p: int(p.name))


def _name(number: int) -> str:
    return f"{number:08d}"


def _require(record: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    for name, kind in entries.items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            raise Damaged(f"its record lacks {name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def newest(folder: Path, say: Callable[[str], None], entries: Mapping[str, Any] | None = None) -> Checkpoint | None:
    """The newest intact checkpoint; None if there are no checkpoints. Damaged ones are skipped, with a warning to
    `say`; if all are damaged, a SettingError is raised. `entries` maps names that the record must have to their types.
    """
    return _first_whole(folder, paths(folder)[::-1], say, entries or {})


def best(folder: Path, say: Callable[[str], None], entries: Mapping[str, Any] | None = None) -> Checkpoint | None:
    """The intact checkpoint with the highest score; otherwise like `newest`."""
    return _first_whole(folder, sorted(paths(folder)[::-1], key=_score, reverse=True), say, entries or {})


def prune(folder: Path, keep: int) -> None:
    """Delete all checkpoints except the newest `keep` and the one with the highest score."""
    there = paths(folder)
    highest = max(there[::-1], key=_score) if there else None
    for path in there[:-keep]:
        if path != highest:
            _remove(path)


def highest_score(folder: Path) -> float:
    """The highest score of the checkpoints in a folder; −∞ if none has one."""
    return max(map(_score, paths(folder)), default=float("-inf"))


def _first_whole(
    folder: Path, there: list[Path], say: Callable[[str], None], entries: Mapping[str, Any]
) -> Checkpoint | None:
    for path in there:
        try:
            found = read(path)
            _require(found.record, entries)
            return found
        except Damaged as error:
            say(f"warning: checkpoint {path} is damaged ({error}); trying another")
    if there:
        raise SettingError("checkpoints", str(folder), "are all damaged; start a new run in another directory")
    return None


def _score(path: Path) -> float:
    try:
        score = read_record(path).get("score")
    except Damaged:
        score = None
    return float(score) if isinstance(score, (int, float)) and score == score else float("-inf")


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by path, such as state/params/policy/params/Dense_0/kernel."""
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree.leaves_with_path(tree)}


def _like(name: str, array: np.ndarray, like: Any) -> Any:
    here = jax.eval_shape(jax.random.key_data, like) if hosts.is_key(like) else like
    if (array.dtype, array.shape) != (here.dtype, here.shape):
        saved, now = (f"{a.dtype}{list(a.shape)}" for a in (array, here))
        raise SettingError("checkpoint", name, f"was saved as {saved} but is {now} with these settings")
    if not isinstance(like, jax.Array):
        return array
    # a copy in either case, because its buffer will be donated
    copy = hosts.place(array, like.sharding) if like.committed else jnp.array(array)
    return jax.random.wrap_key_data(copy, impl=jax.random.key_impl(like)) if hosts.is_key(like) else copy


def _hash_of_leaves(leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(leaves):
        array = leaves[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _hash_of_record(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _reserve(path: Path, size: int) -> None:
    """Raise OSError if the disk has less room than `size`."""
    with path.open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(bytes(min(size, 1 << 20)))
        os.fsync(file.fileno())
    path.unlink()


def _write_leaves(folder: Path, leaves: Mapping[str, np.ndarray]) -> None:
    """Write the bytes of all arrays to one file; types and shapes are in the record, since .npz has no bfloat16."""
    folder.mkdir()
    try:
        arrays: dict[str, Any] = {
            _PREFIX + name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in leaves.items()
        }
        np.savez(folder / ARRAYS, **arrays)
    except ValueError as error:  # zipfile raises it when it closes a file on a full disk
        raise OSError("the arrays cannot be written") from error


def _read_leaves(folder: Path, like: Mapping[str, tuple[np.dtype, Any]]) -> dict[str, np.ndarray]:
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        return {name: file[_PREFIX + name].view(dtype).reshape(shape) for name, (dtype, shape) in like.items()}


def _read_leaves_of_orbax(folder: Path, like: Mapping[str, tuple[np.dtype, Any]]) -> dict[str, np.ndarray]:
    """Arrays of format 1. All processes must call it. Empty arrays were not saved."""
    from orbax.checkpoint import v1 as ocp

    empty = {name: np.empty(shape, dtype) for name, (dtype, shape) in like.items()}
    with _quiet():
        found = ocp.load(str(folder.absolute()), {name: array for name, array in empty.items() if array.size})
    return empty | {name: np.asarray(array) for name, array in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log of orbax."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
