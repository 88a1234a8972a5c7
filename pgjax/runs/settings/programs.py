"""A persistent compilation cache. Each entry starts with a hash of its name, the processor and its bytes, because JAX
does not check them: a corrupt entry fails at every start, and one from another machine may crash.
"""

import hashlib
from pathlib import Path
from typing import Any

from jax._src import compilation_cache  # the public names give no access to the entries

from pgjax.runs.record.attempts import say
from pgjax.runs.record.provenance import processor

_MARK = "-checked"  # entries that JAX itself wrote to the same folder have no hash
_HASH = 32


class CheckedCache:
    """A compilation cache of JAX with verified entries; invalid ones are deleted, with one warning."""

    def __init__(self, cache: Any, path: str):
        """Wrap `cache`, whose folder is `path`."""
        self._cache, self._path, self._silent = cache, Path(path), False

    def get(self, key: str) -> bytes | None:
        """An entry; None if it is missing or invalid."""
        name = f"{key}{_MARK}"
        try:
            entry = self._cache.get(name)
            if entry is None or entry[:_HASH] == _hash(key, entry[_HASH:]):
                return None if entry is None else entry[_HASH:]
            (self._path / f"{name}-cache").unlink(missing_ok=True)
            self._say(f"{name}-cache is corrupt")
        except OSError as error:
            self._say(f"an entry cannot be read ({error.strerror or error})")
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write an entry; a failure prints a warning."""
        name = f"{key}{_MARK}"
        try:
            self._cache.put(name, _hash(key, value) + value)
        except OSError as error:
            (self._path / f"{name}-cache").unlink(missing_ok=True)
            self._say(f"an entry cannot be written ({error.strerror or error})")

    def _say(self, what: str) -> None:
        if not self._silent:
            say(f"warning: compilation cache {self._path}: {what}; programs are recompiled")
        self._silent = True


def check_programs() -> None:
    """Make JAX verify the entries of its compilation cache from now on."""
    compilation_cache.get_file_cache = _checked
    compilation_cache.reset_cache()


_file_cache = compilation_cache.get_file_cache


def _checked(path: str) -> tuple[Any, str] | None:
    try:
        found = _file_cache(path)
    except OSError as error:
        say(f"warning: compilation cache {path} cannot be used: {error.strerror or error}")
        return None
    return None if found is None else (CheckedCache(found[0], found[1]), found[1])


def _hash(key: str, value: bytes) -> bytes:
    return hashlib.sha256(f"{key}\n{processor()}\n".encode() + value).digest()
