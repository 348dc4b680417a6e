"""Tests of the command `weights`."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.cli.commands import weights
from sam_bench.training.build import build_network
from tests.conftest import TINY, last_checkpoint

RUN = ["experiment=smoke", "optimizer=sam", "data.crop=false", "data.flip=false", "trainer.precision=fp32"]


def test_weights_are_those_of_last_checkpoint(tiny_run, folder, capsys):
    record = tiny_run(*RUN)
    weights.main(["--experiment", "smoke"])
    assert "1 of 1 runs" in capsys.readouterr().out

    (path,) = (folder / "results" / "smoke" / "weights").glob("*.pt")
    assert path.stem == record["run_id"]
    model = build_network(compose.compose([*TINY, *RUN]))
    model.load_state_dict(torch.load(path, weights_only=True))
    expected = last_checkpoint(folder, record["run_id"], "smoke")["training"]["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name])

    # An equal file is kept, and another one is an error.
    written_at = path.stat().st_mtime_ns
    weights.main(["--experiment", "smoke"])
    assert path.stat().st_mtime_ns == written_at
    torch.save({name: value + 1 for name, value in expected.items()}, path)
    with pytest.raises(SystemExit, match="other weights than the run's last checkpoint"):
        weights.main(["--experiment", "smoke"])


def test_run_without_checkpoint_is_named(tiny_run, folder, capsys):
    record = tiny_run(*RUN)
    for path in (folder / "runs" / "smoke" / record["run_id"]).glob("*.pt"):
        path.unlink()
    weights.main(["--experiment", "smoke"])
    out = capsys.readouterr().out
    assert "0 of 1 runs" in out
    assert f"Without a checkpoint in runs/smoke: {record['run_id']}" in out


def test_checkpoint_of_another_run_is_refused(tiny_run, folder):
    record = tiny_run(*RUN)
    (path,) = (folder / "results" / "smoke" / "records").glob("*.json")
    path.write_text(path.read_text().replace(str(record["test_error"]), "12.5"))
    with pytest.raises(SystemExit, match="not from the end of the recorded run"):
        weights.main(["--experiment", "smoke"])
    assert not (folder / "results" / "smoke" / "weights").exists()


def test_weights_without_records_are_refused(folder):
    with pytest.raises(SystemExit, match="there are no records"):
        weights.main(["--experiment", "smoke"])
