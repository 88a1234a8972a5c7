"""Compiled programs on the disk: what is read there is what this processor wrote under this name, or it is made anew.

jax believes what it finds in its cache: an entry that belongs to another program fails when it runs, at every start,
and one from another machine may do worse. So each entry carries a hash of its name, the processor and its bytes.
"""

import hashlib
from pathlib import Path
from typing import Any

from jax._src import compilation_cache  # the cache can be asked for by its public names, but not be checked

from pgjax.runs.record.attempts import say
from pgjax.runs.record.provenance import processor

_MARK = "-checked"  # jax's own entries, in the same folder, have no hash
_HASH = 32


class CheckedCache:
    """A cache of jax's whose entries are checked; those that are not as they were written are deleted, and told."""

    def __init__(self, cache: Any, path: str):
        """Keep entries in `cache`, which lies at `path`."""
        self._cache, self._path, self._silent = cache, Path(path), False

    def get(self, key: str) -> bytes | None:
        """An entry; None where there is none that can be trusted."""
        name = f"{key}{_MARK}"
        try:
            entry = self._cache.get(name)
            if entry is None or entry[:_HASH] == _hash(key, entry[_HASH:]):
                return None if entry is None else entry[_HASH:]
            (self._path / f"{name}-cache").unlink(missing_ok=True)
            self._say(f"{name}-cache is not what was written under this name")
        except OSError as error:
            self._say(f"an entry cannot be read ({error.strerror or error})")
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, if that can be done."""
        name = f"{key}{_MARK}"
        try:
            self._cache.put(name, _hash(key, value) + value)
        except OSError as error:
            (self._path / f"{name}-cache").unlink(missing_ok=True)
            self._say(f"an entry cannot be written ({error.strerror or error})")

    def _say(self, what: str) -> None:
        if not self._silent:
            say(f"warning: compiled programs in {self._path}: {what}; programs are compiled anew")
        self._silent = True


def check_programs() -> None:
    """From here on let jax read and write compiled programs checked."""
    compilation_cache.get_file_cache = _checked
    compilation_cache.reset_cache()


_file_cache = compilation_cache.get_file_cache


def _checked(path: str) -> tuple[Any, str] | None:
    try:
        found = _file_cache(path)
    except OSError as error:
        say(f"warning: compiled programs cannot be kept in {path}: {error.strerror or error}")
        return None
    return None if found is None else (CheckedCache(found[0], found[1]), found[1])


def _hash(key: str, value: bytes) -> bytes:
    return hashlib.sha256(f"{key}\n{processor()}\n".encode() + value).digest()
