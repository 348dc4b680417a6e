"""Tests of runs, from a configuration to a record."""

import json
import re
import socket
from importlib import metadata

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.errors import ConfigError, StateError
from sam_bench.runs import run
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training import build, pace
from sam_bench.training.evaluate import MEASURES
from tests.conftest import TINY, everything_below, last_checkpoint, lasting, options
from tests.runs.faults import SHORT

#: Keys of every record.
REQUIRED = {
    "schema_version",
    "run_id",
    "experiment",
    "method",
    "seed",
    "status",
    "config",
    "test_error",
    "best_test_error",
    "test_loss",
    "test_ece",
    "train_loss",
    "wrong_train_labels",
    "wrong_test_labels",
    "epochs",
    "steps",
    "passes",
    "train_seconds",
    "eval_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "device",
    "precision",
    "batchnorm",
    "dataset",
    "dataset_sha256",
    "versions",
    "git_commit",
    "history",
}


def test_record_has_version_of_base_package(tiny_run):
    assert "schedulefree" not in tiny_run("model=resnet8")["versions"]
    versions = tiny_run("model=resnet8", "optimizer/base=schedule_free")["versions"]
    assert versions["schedulefree"] == metadata.version("schedulefree")


def test_several_averages_leave_model_alone(tiny_run, folder):
    overrides = ["model=resnet8", "trainer.epochs=4", "optimizer=wasam"]
    starts = tiny_run(*overrides, "averaging.starts=[0.0,0.5,0.75]")
    assert list(starts["averaged"]) == ["swa 0", "swa 0.5", "swa 0.75"]
    assert len({measured["test_loss"] for measured in starts["averaged"].values()}) == 3

    # The weights of the run itself are those of a run without averages.
    alone = tiny_run("model=resnet8", "trainer.epochs=4", "optimizer=sam")
    assert alone["averaged"] == {}
    for key in ("test_error", "test_loss", "train_loss", "passes"):
        assert alone[key] == starts[key]
    checkpoints = [last_checkpoint(folder, record["run_id"])["training"] for record in (starts, alone)]
    for a, b in zip(*(state["model"].values() for state in checkpoints), strict=True):
        assert torch.equal(a, b)


def test_average_of_last_epoch_equals_model(tiny_run):
    # SqueezeNet has no BatchNorm, whose statistics an average estimates anew.
    record = tiny_run("model=torchvision", "model.arch=squeezenet1_1", "averaging=swa", "trainer.epochs=2")
    assert record["averaged"]["swa 0.75"] == {name: record[name] for name in MEASURES}


def test_m_of_run_perturbs_each_part(tiny_run):
    whole, parts = tiny_run("model=resnet8"), tiny_run("model=resnet8", "optimizer.m=2")
    assert (whole["m"], parts["m"]) == (5, 2)
    assert parts["passes"] == whole["passes"] == 4
    assert parts["train_loss"] != whole["train_loss"]
    assert tiny_run("model=resnet8", "optimizer.m=5") == whole
    assert tiny_run("model=resnet8", "optimizer.sync_perturbation=true") == whole


@pytest.mark.parametrize(
    ("optimizer", "start_at", "passes"),
    [("sam", 0.5, 6 + 2 * 6), ("sam", 0.8, 10 + 2 * 2), ("sam", 0.99, 11 + 2), ("looksam", 0.5, 6 + 6 + 2)],
)
def test_start_at_takes_one_pass_before(tiny_run, optimizer, start_at, passes):
    record = tiny_run(*SHORT, f"optimizer={optimizer}", f"optimizer.start_at={start_at}")
    assert (record["steps"], record["passes"]) == (12, passes)
    assert record["config"]["optimizer"]["start_at"] == start_at

    sgd = tiny_run(*SHORT, "optimizer=sgd")
    assert record["history"]["train_loss"][0] == sgd["history"]["train_loss"][0]
    assert record["test_loss"] != sgd["test_loss"]


def test_pace_starts_anew_with_second_pass(tiny_run, monkeypatch):
    calls = []  # the `Pace` of each step, and the passes left after it

    def record_call(self, seconds, position, passes_left):
        calls.append((id(self), passes_left))

    monkeypatch.setattr(pace.Pace, "after_step", record_call)
    tiny_run(*SHORT, "optimizer=sam", "optimizer.start_at=0.5")

    # Steps of two passes count twice among those left, and are timed by another `Pace`.
    paces, passes_left = zip(*calls, strict=True)
    assert passes_left == (17, 16, 15, 14, 13, 6, 5, 4, 3, 2, 1, 0)
    assert len(set(paces[:5])) == len(set(paces[5:])) == 1 and paces[0] != paces[5]


def test_record_is_complete_and_names_no_user(tiny_run, folder, monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "WANDB_API_KEY"):
        monkeypatch.setenv(name, f"/private/of-{name}")
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.eval_every=1", f"paths.runs={folder / 'runs'}")

    assert record.keys() >= REQUIRED
    assert record["dataset"] == "synthetic"
    assert len(record["dataset_sha256"]) == 64
    assert record["test_error"] == record["history"]["test_error"][-1]
    assert record["best_test_error"] == min(record["history"]["test_error"])
    assert {len(values) for values in record["history"].values()} == {2}
    assert record["peak_memory_bytes"] > 2**20

    assert not re.search(f"{folder}|private|{socket.gethostname()}\\b", json.dumps(record))
    assert not [name for name in everything_below(folder) if name.rpartition("/")[2].startswith(".")]


def test_finished_run_is_not_repeated(tiny_run, folder, monkeypatch):
    first = tiny_run("model=resnet8")
    monkeypatch.setattr(run, "load_data", lambda config: pytest.fail("the run was repeated"))
    assert tiny_run("model=resnet8") == first


def test_rerun_keeps_old_record_aside(tiny_run, folder):
    first = tiny_run("model=resnet8")
    again = tiny_run("model=resnet8", "trainer.rerun=true")
    assert lasting(again) == lasting(first)

    (old,) = (folder / "results" / "default" / "records" / "superseded").iterdir()
    assert json.loads(old.read_text()) == first
    assert len(list((folder / "runs" / "default" / "superseded").iterdir())) == 1
    assert tiny_run("model=resnet8") == again


def test_run_does_not_depend_on_earlier_runs(tiny_run, folder):
    alone = tiny_run("model=resnet8")
    (folder / "results").rename(folder / "before")
    (folder / "runs").rename(folder / "runs_before")

    tiny_run("model=resnet20", "optimizer=gsam", "seed=3")
    assert lasting(tiny_run("model=resnet8")) == lasting(alone)


def initial_tensors(*overrides: str) -> list[torch.Tensor]:
    """Return the initial weights, and two epochs' batches: images, labels, true labels and mixtures."""
    config = compose.compose([*TINY, "model=resnet8", "data.label_noise=0.4", "data.mixup=0.2", *overrides])
    hardware = Hardware.choose("cpu", "fp32")
    training = build.prepare(config, build.load_data(config.data), hardware, "eager", Processes("cpu"))
    batches = [batch for epoch in (0, 3) for batch in training.train.epoch(epoch)]
    weights = [p.detach().clone() for p in training.model.parameters()]
    return [*weights, *(tensor for batch in batches for tensor in batch.tensors())]


def test_runs_of_one_seed_are_paired(small_synthetic):
    expected = initial_tensors("optimizer=sgd")
    choices = [[f"optimizer={name}"] for name in options("optimizer")]
    choices += [["optimizer=sam", "optimizer.rho=0.3", "optimizer.base.lr=0.01"], ["trainer.epochs=9", "averaging=ema"]]
    for overrides in choices:
        assert all(torch.equal(a, b) for a, b in zip(expected, initial_tensors(*overrides), strict=True))

    other_seed = initial_tensors("optimizer=sgd", "seed=7")
    for place in (0, -1, -5):  # first weights, then the last batch's mixture and images
        assert not torch.equal(expected[place], other_seed[place])


def test_unreadable_record_is_refused(tiny_run, folder):
    record = tiny_run("model=resnet8")
    path = folder / "results" / "default" / "records" / f"{record['run_id']}.json"
    path.write_text("{}")
    with pytest.raises(StateError, match="not the record of a run"):
        tiny_run("model=resnet8")


def test_console_names_run_and_record(tiny_run, capsys):
    record = tiny_run("model=resnet8", "optimizer=gsam", "trainer.progress=plain")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(record["run_id"])
    for text in ("GSAM ρ 2", "sgd", "resnet8", "synthetic (10 images)", "test split", "1 epoch"):
        assert text in first
    assert last.endswith(f"results/default/records/{record['run_id']}.json")


def test_last_epoch_is_always_evaluated(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=3", "trainer.eval_every=2")
    errors = record["history"]["test_error"]
    assert [error is None for error in errors] == [True, False, False]
    assert record["test_error"] == errors[-1]


def test_last_batch_is_kept_or_dropped(tiny_run):
    kept, dropped = (
        tiny_run("model=resnet8", "trainer.epochs=2", "trainer.batch_size=4", f"trainer.drop_last={choice}")
        for choice in ("false", "true")
    )
    assert (kept["steps"], dropped["steps"]) == (2 * 3, 2 * 2)
    assert (kept["drop_last"], dropped["drop_last"]) == (False, True)
    for record, images in ((kept, 10), (dropped, 8)):
        assert record["images_per_second"] == pytest.approx(2 * images / record["train_seconds"])


def test_images_per_second_is_median_of_epochs(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=3")
    assert record["images_per_second"] == pytest.approx(10 / sorted(record["history"]["train_seconds"])[1])


def test_val_split_leaves_test_set_alone(tiny_run, small_synthetic):
    record = tiny_run("model=resnet8", "data.split=val")
    assert (record["train_images"], record["test_images"]) == (10, 20)
    assert record["dataset_sha256"] != tiny_run("model=resnet8")["dataset_sha256"]


def test_warmup_start_sets_first_rate(tiny_run):
    protocol = ["model=resnet8", "schedule.warmup_epochs=2", "schedule.every=epoch", "trainer.epochs=3"]
    assert tiny_run(*protocol)["history"]["lr"][:2] == pytest.approx([0.05, 0.1])
    assert tiny_run(*protocol, "schedule.warmup_start=0.25")["history"]["lr"][:2] == pytest.approx([0.025, 0.0625])


def test_crop_padding_changes_training(tiny_run):
    zeros, reflect = (tiny_run("model=resnet8", f"data.padding={padding}") for padding in ("zeros", "reflect"))
    assert zeros["train_loss"] != reflect["train_loss"]


def test_missing_cuda_is_refused(tiny_run, monkeypatch, folder):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        tiny_run("trainer.device=cuda")
    assert everything_below(folder) == []


def test_long_run_on_cpu_warns(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(pace, "STEPS", 1)
    three_steps = ["model=resnet8", "data.train_subset=30", "trainer.batch_size=10", "trainer.progress=plain"]
    tiny_run(*three_steps)
    assert "experiment=noisy40" not in capsys.readouterr().err

    monkeypatch.setattr(pace, "HOURS", 1e-9)
    tiny_run(*three_steps, "seed=1")
    assert "experiment=noisy40" in capsys.readouterr().err
