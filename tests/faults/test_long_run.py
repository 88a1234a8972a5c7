"""A long run needs no more memory than a short one, and compiles once."""

import os
from pathlib import Path

import jax.monitoring
import pytest
from runs import TINY

from pgjax import sweeps


def resident():
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.costly
@pytest.mark.parametrize("updates", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_stays_and_nothing_is_compiled_again(here, tmp_path, monkeypatch, updates):
    chunks, memory, compiled, compilations = sweeps.chunks, [], [], [0]

    def count(event, *_, **__):
        compilations[0] += event == "/jax/core/compile/backend_compile_duration"

    def watched(*arguments, **keywords):
        for chunk in chunks(*arguments, **keywords):
            memory.append(resident())
            compiled.append(compilations[0])
            yield chunk

    monkeypatch.setattr(sweeps, "chunks", watched)
    jax.monitoring.register_event_duration_secs_listener(count)
    here(*TINY, "--total-steps", 36 * updates, "--updates-per-chunk", 10, "--out", tmp_path / "run")
    jax.monitoring.unregister_event_duration_listener(count)
    warm = len(memory) // 10
    growth = (max(memory[warm:]) - memory[warm]) / 1e6
    print(f"\n{updates} updates: memory grows {growth:.1f} MB after the first {10 * warm}")
    assert len(memory) == updates / 10 and growth < 20
    assert compiled[0] > 0 and len(set(compiled)) == 1
