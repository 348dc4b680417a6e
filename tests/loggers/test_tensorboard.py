"""Tests of the TensorBoard logger, whose event files are read back."""

import pytest

from sam_bench.cli.compose import compose
from sam_bench.errors import ConfigError
from sam_bench.loggers.base import Run
from sam_bench.loggers.tensorboard import Logger, Settings
from sam_bench.runs.run import run
from sam_bench.runs.spec import RunSpec
from tests.conftest import TINY

pytest.importorskip("tensorboard")

RUN = [*TINY, "trainer.device=cpu", "model=resnet8", "optimizer=sgd", "trainer.epochs=2", "logger=tensorboard"]


def read_scalars(folder):
    """Return the steps and values of each curve in a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_equal_the_records(folder, small_synthetic):
    record, _ = run(RunSpec.resolve(compose(RUN)))
    scalars = read_scalars(folder / "runs" / record["experiment"] / record["run_id"] / "tensorboard")
    expected = {
        name: [(epoch, pytest.approx(value)) for epoch, value in enumerate(values, start=1) if value is not None]
        for name, values in record["history"].items()
    }
    assert scalars == {name: points for name, points in expected.items() if points}


def test_resumed_run_replaces_later_epochs(tmp_path):
    def start(done):
        logger = Logger(Settings())
        logger.start(Run("name", "experiment", "", {"lr": 0.1}, tmp_path, epochs=4, steps=40, done=done))
        return logger

    killed = start(done=0)
    for epoch in (1, 2, 3):
        killed.log(epoch, {"test_error": 90.0, "test_loss": None})

    resumed = start(done=20)  # the checkpoint was of the end of epoch 2
    for epoch in (3, 4):
        resumed.log(epoch, {"test_error": 80.0, "test_loss": float("nan")})
    resumed.finish({"test_error": 80.0})

    assert read_scalars(tmp_path / "tensorboard") == {"test_error": [(1, 90.0), (2, 90.0), (3, 80.0), (4, 80.0)]}


def test_missing_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[tensorboard\]'"):
        compose(RUN)
