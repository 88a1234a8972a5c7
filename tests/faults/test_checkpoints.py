"""Checkpoints: nothing is lost, nothing damaged is believed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import a2c, environments, make_agent, make_trainer, sweeps
from pgjax.runs.record import checkpoints
from pgjax.types import SettingError

TREE = {
    "key": jax.random.split(jax.random.key(3), 2),
    "other": jax.random.key(1, impl="rbg"),
    "weights": {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([1, 2], jnp.bfloat16)},
    "flags": (np.array([True, False]), jnp.zeros((2, 0))),
    "count": jnp.int32(7),
}


def silent(line):
    raise AssertionError(line)


def test_what_was_saved_comes_back(tmp_path):
    checkpoints.save(tmp_path / "c", 12, TREE, {"score": None, "note": "x"})
    read = checkpoints.newest(tmp_path / "c", silent)
    back = read.restore(TREE)
    assert read.number == 12 and read.record["note"] == "x"
    same(back, TREE)


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        assert a.dtype == b.dtype and type(a) is type(b)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.costly
def test_a_whole_sweep_goes_on_from_its_checkpoint_to_the_bit(tmp_path):
    env = environments.make("Catch-bsuite")
    algorithm, config = a2c()
    trainer = make_trainer(env, make_agent(env, critic="state", hidden=(4,)), config)

    def begin():
        return sweeps.start(trainer, algorithm, seeds=2, over={"learning_rate": [1e-2, 1e-3]})

    runs, _ = sweeps.advance(trainer, begin(), 10**6, 2)
    tree = runs._replace(mesh=None)
    checkpoints.save(tmp_path / "c", 2, tree, {})
    end, _ = sweeps.advance(trainer, runs, 10**6, 2)
    other = begin()._replace(mesh=None)
    back = checkpoints.newest(tmp_path / "c", silent).restore(other)._replace(mesh=runs.mesh)
    again, _ = sweeps.advance(trainer, back, 10**6, 2)
    same(again._replace(mesh=None), end._replace(mesh=None))


def test_other_shapes_are_refused_by_name(tmp_path):
    checkpoints.save(tmp_path / "c", 1, {"a": jnp.zeros(3), "b": jnp.zeros(2)}, {})
    read = checkpoints.newest(tmp_path / "c", silent)
    with pytest.raises(SettingError, match=r"^checkpoint: 'b' was saved as float32\[2\] but is float32\[4\]"):
        read.restore({"a": jnp.zeros(3), "b": jnp.zeros(4)})
    with pytest.raises(SettingError, match="^checkpoint: 'b' is in the checkpoint only"):
        read.restore({"a": jnp.zeros(3)})


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = tmp_path / "c"
    for number, score in enumerate([1.0, 5.0, None, 3.0, 5.0, 2.0, None, 0.0], start=1):
        checkpoints.save(folder, number, {"a": np.arange(number)}, {"score": score})
        checkpoints.prune(folder, 2)
    assert [int(p.name) for p in checkpoints.paths(folder)] == [5, 7, 8]
    assert checkpoints.newest(folder, silent).number == 8 and checkpoints.best(folder, silent).number == 5


def damages(path, rng, flips):
    """Every way to damage a checkpoint, one at a time: a description, and what does it."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        yield f"{file.name} deleted", file.unlink
        yield f"{file.name} emptied", lambda file=file: file.write_bytes(b"")
        yield f"{file.name} truncated", lambda file=file: file.write_bytes(file.read_bytes()[:-1])
    sizes = np.array([f.stat().st_size for f in files])
    for place in rng.integers(sizes.sum(), size=flips):
        index = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        offset, bit = int(place - np.cumsum(sizes)[index] + sizes[index]), int(rng.integers(8))
        yield (
            f"bit {bit} of byte {offset} of {files[index].name}",
            lambda f=files[index], o=offset, b=bit: flip(f, o, b),
        )


def flip(file, offset, bit):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("flips", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_no_damage_is_silent(tmp_path, flips, record_property):
    """The newest of two checkpoints is damaged: it is verified equal, or there is a line and the other one."""
    folder, rng = tmp_path / "c", np.random.default_rng(0)
    tree = {f"layer_{i}": rng.normal(size=(2, 40, 9)).astype(np.float32) for i in range(5)}
    older = {name: array + 1 for name, array in tree.items()}
    checkpoints.save(folder, 1, older, {"score": 1.0})
    checkpoints.save(folder, 2, tree, {"score": 2.0})
    shutil.copytree(folder, tmp_path / "copy")
    outcomes = {"equal": 0, "previous": 0}
    for what, damage in damages(folder / "00000002", rng, flips):
        damage()
        lines = []
        read = checkpoints.newest(folder, lines.append)
        if read.number == 2:
            assert not lines, what
            same(read.restore(tree), tree)
        else:
            assert len(lines) == 1 and "00000002 is damaged" in lines[0] and "\n" not in lines[0], what
            same(read.restore(older), older)
        outcomes["equal" if read.number == 2 else "previous"] += 1
        shutil.rmtree(folder / "00000002")
        shutil.copytree(tmp_path / "copy" / "00000002", folder / "00000002")
    print(f"\n{flips} flips and every file deleted, emptied, truncated: {outcomes}")
    assert outcomes["previous"] > flips / 2  # the damage does reach what matters


def test_when_all_are_damaged_nothing_is_begun_anew(tmp_path):
    checkpoints.save(tmp_path, 1, {"a": np.zeros(3)}, {})
    (tmp_path / "00000001" / "record.json").write_text("")
    with pytest.raises(SettingError, match="^checkpoints: .* all damaged"):
        checkpoints.newest(tmp_path, lambda line: None)


def test_a_changed_record_is_damage(tmp_path):
    checkpoints.save(tmp_path, 1, {"a": np.zeros(3)}, {"metrics_bytes": 100})
    path = tmp_path / "00000001" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"metrics_bytes": 101}))
    with pytest.raises(checkpoints.Damaged, match="does not match its hash"):
        checkpoints.read(path.parent)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, files_up_to):
    checkpoints.save(tmp_path / "c", 1, {"a": np.zeros(10)}, {})
    with files_up_to(2_000_000), pytest.raises(OSError, match="too large"):
        checkpoints.save(tmp_path / "c", 2, {"a": np.zeros(10**6)}, {})
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["00000001"]
    assert checkpoints.newest(tmp_path / "c", silent).number == 1


def test_a_removed_directory_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.save(tmp_path / "gone" / "checkpoints", 1, {"a": np.zeros(3)}, {})
    assert not (tmp_path / "gone").exists()
