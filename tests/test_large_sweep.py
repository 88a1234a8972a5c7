"""Sweeps in blocks: the rows of one sweep, whatever the blocks, and whatever was interrupted."""

from dataclasses import replace

import numpy as np
import pytest
from parts import blocks

from pgjax import environments, make_agent, make_trainer, reinforce, sweep
from pgjax.runs.record.texts import csv_text
from pgjax.types import SettingError

OVER = {"learning_rate": [1e-2, 3e-2]}


@pytest.fixture(scope="module")
def trainer():
    environment, recipe = environments.make("Catch-bsuite"), reinforce()
    return make_trainer(environment, make_agent(environment, hidden=(4,)), replace(recipe.config, num_envs=4))


@pytest.mark.costly
def test_blocks_train_what_one_sweep_does(trainer):
    algorithm = reinforce().algorithm
    whole = sweep(trainer, algorithm, total_steps=180, seeds=4, over=OVER, updates_per_chunk=5).runs
    pieces = list(blocks.trained(trainer, algorithm, seeds=4, over=OVER, total_steps=180, block=2, first=1))
    assert len(pieces) == blocks.count(4, OVER, 2) - 1
    for name, wanted in (("seed", whole.seeds), ("learning_rate", whole.settings["learning_rate"])):
        found = [p.seeds if name == "seed" else p.settings[name] for p in pieces]
        np.testing.assert_array_equal(np.concatenate(found), wanted[2:])
    kernel = [np.asarray(r.state.params["policy"]["net"]["params"]["Dense_0"]["kernel"]) for r in (whole, *pieces)]
    np.testing.assert_allclose(np.concatenate(kernel[1:]), kernel[0][2:], atol=1e-6)


def test_a_table_is_taken_up_after_its_last_whole_block(tmp_path):
    path, columns = tmp_path / "table.csv", ("rate", "seed")
    table = blocks.BlockTable(path, columns, 2)
    for i in range(3):
        table.append([(0.5, 2 * i), (0.5, 2 * i + 1)])
    whole = path.read_text()
    assert whole == csv_text([columns, *((0.5, i) for i in range(6))])
    for torn in (len(whole) - 1, len(whole) - 3, len(whole) - 7):  # in the last row, and within its block
        path.write_text(whole[:torn])
        again = blocks.BlockTable(path, columns, 2)
        assert again.blocks == 2
        again.append([(0.5, 4), (0.5, 5)])
        assert path.read_text() == whole
    assert blocks.BlockTable(path, columns, 2).blocks == 3


def test_what_is_no_such_table_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("other\n1\n")
    with pytest.raises(SettingError, match="^out: .* holds another table"):
        blocks.BlockTable(tmp_path / "table.csv", ("rate", "seed"), 2)
    with pytest.raises(SettingError, match="^block: 3 must divide the number of seeds, 4"):
        blocks.count(4, OVER, 3)
