"""Parameters as npz without pickle: the same parameters give the same bytes, and what is read fits or is refused."""

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

BEFORE_TIME = (1980, 1, 1, 0, 0, 0)  # the first date that zip knows: files do not depend on when they are written


def named(tree: Any) -> dict[str, Any]:
    """The leaves of parameters by their paths.

    >>> named({"policy": {"bias": 1.0}})
    {'policy/bias': 1.0}
    """
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(tree)}


def as_bytes(params: Params) -> bytes:
    """A compressed npz of float32, by path and in order.

    >>> as_bytes({"b": jnp.ones(2), "a": jnp.zeros(3)}) == as_bytes({"a": jnp.zeros(3), "b": jnp.ones(2)})
    True
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, leaf in sorted(named(params).items()):
            array = io.BytesIO()
            np.lib.format.write_array(array, np.asarray(leaf, "<f4"), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", BEFORE_TIME)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(entry, array.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return content.getvalue()


def read(path: Path, agent: Agent, sha256: str) -> Params:
    """The parameters of an agent.

    Raises:
      SettingError: if the file is damaged, another than the card's, or holds the parameters of another agent.

    >>> from pgjax import environments, make_agent
    >>> read(Path("nowhere.npz"), make_agent(environments.make("CartPole-v1")), "")
    Traceback (most recent call last):
    pgjax.types.SettingError: policy: 'nowhere.npz' cannot be read: No such file or directory
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError("policy", str(path), f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SettingError("policy", str(path), "is damaged, or not of its card: its SHA-256 is another")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingError("policy", str(path), "is no npz of parameters") from error
    like = jax.eval_shape(agent.init, jax.random.key(0))
    shapes = named(like)
    for name in sorted(set(shapes) ^ set(arrays)):
        where = "the file lacks it" if name in shapes else "the file alone has it"
        raise SettingError("policy", str(path), f"is of another agent than its card's settings make: {where}: {name}")
    for name, leaf in shapes.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != np.float32:
            here, there = (f"{x.dtype}{list(x.shape)}" for x in (jax.ShapeDtypeStruct(leaf.shape, np.float32), array))
            raise SettingError("policy", str(path), f"is of another agent: {name} is {there}, its network has {here}")
        if not np.isfinite(array).all():
            raise SettingError("policy", str(path), f"has numbers in {name} that are not finite")
    leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in shapes.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
