"""Parameters as npz without pickle. The same parameters give the same bytes, and files are checked on reading."""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.types import Agent, Params, SettingError

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first date, so that files do not depend on when they are written


def named(tree: Any) -> dict[str, Any]:
    """The leaves of parameters by path, such as "policy/bias"."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(tree)}


def as_bytes(params: Params) -> bytes:
    """A compressed npz of float32, sorted by path."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, leaf in sorted(named(params).items()):
            array = io.BytesIO()
            np.lib.format.write_array(array, np.asarray(leaf, "<f4"), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", ZIP_EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(entry, array.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return content.getvalue()


def read(path: Path, agent: Agent, sha256: str) -> Params:
    """Read an agent's parameters; the file must match the card's SHA-256 and the agent."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError("policy", str(path), f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SettingError("policy", str(path), "is damaged or not the file of its card: the SHA-256 differs")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingError("policy", str(path), "is not an npz of parameters") from error
    like = jax.eval_shape(agent.init, jax.random.key(0))
    shapes = named(like)
    for name in sorted(set(shapes) ^ set(arrays)):
        difference = "the file lacks" if name in shapes else "only the file has"
        raise SettingError("policy", str(path), f"does not match the agent of its card: {difference} {name}")
    for name, leaf in shapes.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != np.float32:
            wanted, got = (f"{x.dtype}{list(x.shape)}" for x in (jax.ShapeDtypeStruct(leaf.shape, np.float32), array))
            reason = f"does not match the agent of its card: {name} is {got}; needs {wanted}"
            raise SettingError("policy", str(path), reason)
        if not np.isfinite(array).all():
            raise SettingError("policy", str(path), f"has values in {name} that are not finite")
    leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in shapes.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
