"""TensorBoard and Weights & Biases, played by modules that remember what they are told."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from runs import TINY, fingerprint

from pgjax.runs.record.loggers import WeightsAndBiases
from pgjax.runs.record.metrics_file import read_metrics
from pgjax.types import SettingError

STEPS = "--total-steps", 36 * 7


class Writer:
    """As tensorboardX.SummaryWriter."""

    made: list = []  # noqa: RUF012

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.closed, self.scalars = folder, purge_step, False, {}
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    return Writer


def test_tensorboard_gets_what_the_table_holds(here, tmp_path, tensorboard):
    path = here(*TINY, *STEPS, "--log", "tensorboard", "--out", tmp_path / "run")
    metrics = read_metrics(path / "metrics.csv")
    assert [w.folder for w in tensorboard.made] == [str(path / "tensorboard" / f"seed_{s}") for s in (0, 1)]
    for seed, writer in enumerate(tensorboard.made):
        assert writer.closed and writer.purge_step == 1
        for name in ("return_mean", "gradient_norm", "env_steps"):
            logged = [writer.scalars[name, update] for update in range(1, 8)]
            np.testing.assert_allclose(logged, metrics[name][seed], rtol=1e-6)


def test_wandb_gets_an_update_at_a_time(here, tmp_path, monkeypatch):
    calls, logged = [], {}
    run = SimpleNamespace(log=lambda values, step: logged.update({step: values}), finish=lambda: calls.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: calls.append(given) or run))
    path = here(*TINY, *STEPS, "--log", "wandb", "--out", tmp_path / "run")
    metrics = read_metrics(path / "metrics.csv")
    assert calls[0]["id"] == (path / "wandb-id").read_text() and calls[0]["resume"] == "allow"
    assert calls[0]["name"] == "run" and calls[0]["config"]["seeds"] == 2
    assert calls[1:] == ["end"] and list(logged) == list(range(1, 8))
    np.testing.assert_allclose(logged[3]["seed_1/return_mean"], metrics["return_mean"][1, 2], rtol=1e-6)


def test_every_directory_is_a_wandb_run_of_its_own_and_stays_it(tmp_path, monkeypatch):
    ids = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: ids.append(given["id"])))
    for folder in ("a/run", "b/run", "a/run"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        WeightsAndBiases(tmp_path / folder, {}, 0)
    assert ids[0] == ids[2] != ids[1] and len(ids[0]) == 32


def test_a_logger_that_fails_is_given_up_with_a_line(here, tmp_path, tensorboard, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("connection lost")

    quiet = here(*TINY, *STEPS, "--out", tmp_path / "quiet")
    monkeypatch.setattr(Writer, "add_scalar", fail)
    capfd.readouterr()
    path = here(*TINY, *STEPS, "--log", "tensorboard", "--out", tmp_path / "run")
    assert capfd.readouterr().err == f"warning: {path / 'tensorboard'}: logging is disabled: connection lost\n"
    assert fingerprint(path)[1:] == fingerprint(quiet)[1:]


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("trackio", "trackio")]
)
def test_a_missing_package_is_named_before_anything_is_made(here, tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError, match=f"^log: '{name}' needs the package {package}: pip install"):
        here(*TINY, *STEPS, "--log", name, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
