"""Compiled programs on the disk that were damaged, exchanged, or come from elsewhere: compiled anew, with a line."""

import jax
import numpy as np
import pytest
from jax._src import compilation_cache
from jax._src.lru_cache import LRUCache

from pgjax.runs.settings import programs


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Two entries, whose files are called as here."""
    cache = programs.CheckedCache(LRUCache(str(tmp_path), max_size=-1), str(tmp_path))
    cache.put("one", b"1" * 100)
    cache.put("two", b"2" * 100)
    assert (cache.get("one"), cache.get("two"), cache.get("three")) == (b"1" * 100, b"2" * 100, None)
    return cache, tmp_path / "one-checked-cache", tmp_path / "two-checked-cache"


@pytest.mark.parametrize("damage", ["exchanged", "torn", "empty", "a bit", "another processor", "a folder"])
def test_an_entry_is_what_was_written_or_made_anew(kept, damage, monkeypatch, capfd):
    cache, one, two = kept
    content = one.read_bytes()
    if damage == "exchanged":
        one.write_bytes(two.read_bytes())
    elif damage == "another processor":
        monkeypatch.setattr(programs, "processor", lambda: "another")
    elif damage == "a folder":
        one.unlink()
        one.mkdir()
    else:
        one.write_bytes({"torn": content[:-1], "empty": b"", "a bit": content[:-1] + b"0"}[damage])
    assert cache.get("one") is None
    assert capfd.readouterr().err.count("\n") == 1
    cache.put("one", b"3" * 100)
    if damage != "a folder":
        assert cache.get("one") == b"3" * 100
    assert not capfd.readouterr().err  # it is said once


def test_jax_compiles_anew_what_was_exchanged(tmp_path, monkeypatch, capfd):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(compilation_cache, "get_file_cache", compilation_cache.get_file_cache)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    x = np.arange(3, dtype=np.float32)
    try:
        programs.check_programs()

        def results():  # new functions each time: jax knows them from the disk alone
            return jax.jit(lambda x: x + 1)(x).tolist(), jax.jit(lambda x: (x * 2, x))(x)[0].tolist()

        first = results()
        entries = sorted(tmp_path.glob("*-checked-cache"))
        assert len(entries) == 2
        one, two = (entry.read_bytes() for entry in entries)
        entries[0].write_bytes(two)
        entries[1].write_bytes(one)
        assert results() == first == ([1, 2, 3], [0, 2, 4])
        assert "is corrupt; programs are recompiled" in capfd.readouterr().err
        programs.check_programs()
        assert results() == first and not capfd.readouterr().err
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        monkeypatch.undo()
        compilation_cache.reset_cache()
