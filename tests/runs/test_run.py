"""Runs from a config to a record: everything runs, nothing twice, and what broke off goes on."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.config.schema import AveragingConfig
from sam_bench.data.batches import Batches
from sam_bench.errors import ConfigError, StateError
from sam_bench.runs import run
from sam_bench.runs.provenance import git_commit
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training import build, pace
from sam_bench.training.averages import Averages
from sam_bench.training.evaluate import MEASURES
from tests.conftest import FP16, ROOT, TINY, everything_below, execute, last_checkpoint, lasting, options
from tests.forked import command_line, side_by_side

SMALL = ["model=resnet8", *TINY, "trainer.device=cpu"]
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


def config(*overrides: str):
    return compose.compose([*SMALL, *overrides])


@pytest.mark.parametrize("model", options("model"))
def test_every_network_trains(tiny_run, model):
    record = tiny_run("optimizer=sgd", f"model={model}", "data.train_subset=10")
    assert (record["status"], record["steps"], record["passes"]) == ("finished", 2, 2)


PASSES = {"sgd": 2, "msam": 2, "looksam": 3, "ss_sam": 3, "esam": 2 * (4 / 3 + 3 / 5)}
"""Of two steps on five images each, where they are not 4."""


AVERAGED = {"swa": ["swa 0.75"], "ema": ["ema 0.999"]}
"""Weights that are evaluated beside the last ones; lookahead sets those to its mean."""


COMBINATIONS = list(itertools.product(options("averaging"), ("fp32", "bf16", "fp16")))

#: Every method with one average and one precision, in turn; SAM with all of them.
TRAINED = [("sam", *combination) for combination in COMBINATIONS] + [("wasam", "swa", "bf16")]
TRAINED += [
    (name, *COMBINATIONS[number % len(COMBINATIONS)])
    for number, name in enumerate(options("optimizer"))
    if name not in ("sam", "wasam")
]


@pytest.mark.parametrize(("optimizer", "averaging", "precision"), TRAINED)
def test_every_method_trains(tiny_run, optimizer, averaging, precision):
    chosen = FP16 if precision == "fp16" else ["model=resnet8", f"trainer.precision={precision}"]
    calm = ["optimizer.examples=200000"] if optimizer == "bsam" else []  # the noise of as few as here is too much
    record = tiny_run(*chosen, f"optimizer={optimizer}", f"averaging={averaging}", *calm)
    assert record["status"] == "finished"
    assert record["passes"] == pytest.approx(PASSES.get(optimizer, 4))
    assert (record["method"], record["precision"]) == (optimizer, precision)
    assert record["m"] == (5 if optimizer not in ("sgd", "msam") else None)
    assert list(record["averaged"]) == AVERAGED.get(averaging, [])
    assert all(0 <= measured["test_error"] <= 100 for measured in record["averaged"].values())
    assert (record["history"]["loss_scale"][-1] is not None) == (precision == "fp16")


@pytest.mark.parametrize(
    ("optimizer", "base"),
    [
        *((optimizer, base) for optimizer in ("sam", "msam") for base in options("optimizer/base")),
        *((optimizer, base) for optimizer in ("sgd", "wsam") for base in ("muon", "schedule_free", "adamw")),
    ],
)
def test_every_base_trains(tiny_run, optimizer, base):
    overrides = ["model=resnet8", f"optimizer={optimizer}", f"optimizer/base={base}"]
    if optimizer == "wsam" and base in ("muon", "schedule_free"):
        with pytest.raises(ConfigError, match="decouple=False"):
            tiny_run(*overrides)
        overrides.append("optimizer.decouple=false")
    if optimizer == "msam" and base in ("adagrad", "adafactor", "asgd", "rmsprop", "schedule_free", "plain_sgd"):
        with pytest.raises(ConfigError, match="momentum"):
            tiny_run(*overrides)
    else:
        record = tiny_run(*overrides)
        assert record["status"] == "finished"
        assert record["batchnorm"] == ("re-estimated" if optimizer == "msam" or base == "schedule_free" else "clean")


def test_the_record_has_the_version_of_a_bases_package(tiny_run):
    assert "schedulefree" not in tiny_run("model=resnet8")["versions"]
    versions = tiny_run("model=resnet8", "optimizer/base=schedule_free")["versions"]
    assert versions["schedulefree"] == metadata.version("schedulefree")


def test_a_base_whose_package_is_missing_says_how_to_get_it(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"needs the package schedulefree.*pip install -e '.\[schedule-free\]'"):
        tiny_run("model=resnet8", "optimizer/base=schedule_free")


def test_muon_refuses_a_network_without_hidden_layers_before_anything_is_created(monkeypatch):
    monkeypatch.setattr(run, "build_network", lambda config: torch.nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"optimizer/base=muon with model=wrn16_8.*hidden layer"):
        run.check([compose.compose(["data=synthetic", "optimizer/base=muon"])])


def test_several_averages_lie_side_by_side_and_leave_the_raw_model_alone(tiny_run, folder):
    overrides = ["model=resnet8", "trainer.epochs=4", "optimizer=wasam"]
    starts = tiny_run(*overrides, "averaging.starts=[0.0,0.5,0.75]")
    assert list(starts["averaged"]) == ["swa 0", "swa 0.5", "swa 0.75"]
    assert len({measured["test_loss"] for measured in starts["averaged"].values()}) == 3
    alone = tiny_run("model=resnet8", "trainer.epochs=4", "optimizer=sam")
    assert alone["averaged"] == {}
    for key in ("test_error", "test_loss", "train_loss", "passes"):
        assert alone[key] == starts[key]
    saved = [last_checkpoint(folder, record["run_id"])["training"] for record in (starts, alone)]
    for a, b in zip(*(state["model"].values() for state in saved), strict=True):
        assert torch.equal(a, b)


def test_an_average_of_the_last_epoch_alone_is_the_model_itself_but_for_its_running_statistics(tiny_run):
    record = tiny_run("model=torchvision", "model.arch=squeezenet1_1", "averaging=swa", "trainer.epochs=2")
    measured = record["averaged"]["swa 0.75"]
    assert measured == {name: record[name] for name in MEASURES}


def test_parts_of_a_batch_have_perturbations_of_their_own(tiny_run):
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
def test_a_method_that_begins_late_takes_one_pass_a_step_till_then(tiny_run, optimizer, start_at, passes):
    overrides = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]
    record = tiny_run(*overrides, f"optimizer={optimizer}", f"optimizer.start_at={start_at}")
    assert (record["steps"], record["passes"]) == (12, passes)
    assert record["config"]["optimizer"]["start_at"] == start_at
    alone = tiny_run(*overrides, "optimizer=sgd")
    assert record["history"]["train_loss"][0] == alone["history"]["train_loss"][0]
    assert record["test_loss"] != alone["test_loss"]


def test_the_pace_of_one_pass_is_not_taken_for_that_of_two(tiny_run, monkeypatch):
    seen = []
    monkeypatch.setattr(pace.Pace, "after_step", lambda self, seconds, position, left: seen.append((id(self), left)))
    overrides = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3", "optimizer=sam"]
    tiny_run(*overrides, "optimizer.start_at=0.5")
    paces, left = zip(*seen, strict=True)
    assert left[:5] == (17, 16, 15, 14, 13) and left[5:] == (6, 5, 4, 3, 2, 1, 0)  # those of two passes count twice
    assert len(set(paces[:5])) == len(set(paces[5:])) == 1 and paces[0] != paces[5]


@pytest.mark.parametrize("rho_schedule", ["constant", "linear", "cosine", "proportional"])
@pytest.mark.parametrize("schedule", options("schedule"))
def test_every_schedule_trains(tiny_run, schedule, rho_schedule):
    record = tiny_run("model=resnet8", f"schedule={schedule}", f"optimizer.rho_schedule={rho_schedule}")
    assert record["status"] == "finished"
    assert len(record["history"]["lr"]) == len(record["history"]["rho"]) == 1


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_trains(tiny_run, experiment, folder):
    own = {
        "airbench94": ["model=airbench94"],  # what it freezes for a time is a part of its network
        "airbench96": ["model=airbench96"],
        "human40": ["data.labels=clean"],  # people labelled no generated image
    }
    changes = ["model=resnet8", "schedule.warmup_epochs=0", *own.get(experiment, [])]
    record = tiny_run(f"experiment={experiment}", *changes)
    assert record["experiment"] == experiment
    assert (folder / "results" / experiment / "records" / f"{record['run_id']}.json").is_file()


def test_a_record_holds_what_is_needed_and_nothing_of_the_machines_user(tiny_run, folder, monkeypatch):
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


def test_a_finished_run_is_not_repeated(tiny_run, folder, monkeypatch):
    first = tiny_run("model=resnet8")
    monkeypatch.setattr(run, "load_data", lambda config: pytest.fail("it was started again"))
    assert tiny_run("model=resnet8") == first


def test_a_rerun_keeps_the_old_record_aside(tiny_run, folder):
    first = tiny_run("model=resnet8")
    again = tiny_run("model=resnet8", "trainer.rerun=true")
    assert lasting(again) == lasting(first)
    (old,) = (folder / "results" / "default" / "records" / "superseded").iterdir()
    assert json.loads(old.read_text()) == first
    assert len(list((folder / "runs" / "default" / "superseded").iterdir())) == 1
    assert tiny_run("model=resnet8") == again


def test_a_run_does_not_depend_on_what_ran_before_in_the_process(tiny_run, folder):
    alone = tiny_run("model=resnet8")
    (folder / "results").rename(folder / "before")
    (folder / "runs").rename(folder / "runs_before")
    tiny_run("model=resnet20", "optimizer=gsam", "seed=3")
    assert lasting(tiny_run("model=resnet8")) == lasting(alone)


def start(*overrides: str) -> list[torch.Tensor]:
    """Initial weights, and the batches of two epochs: images, labels, true labels and mixtures."""
    chosen = config("data.label_noise=0.4", "data.mixup=0.2", *overrides)
    hardware = Hardware.choose("cpu", "fp32")
    training = build.prepare(chosen, build.load_data(chosen.data), hardware, "eager", Processes("cpu"))
    batches = [batch for epoch in (0, 3) for batch in training.train.epoch(epoch)]
    weights = [p.detach().clone() for p in training.model.parameters()]
    return [*weights, *(tensor for batch in batches for tensor in batch.tensors())]


def test_runs_of_one_seed_are_paired_whatever_their_method_and_settings(small_synthetic, folder):
    first = start("optimizer=sgd")
    others = [[f"optimizer={name}"] for name in options("optimizer")]
    others += [["optimizer=sam", "optimizer.rho=0.3", "optimizer.base.lr=0.01"], ["trainer.epochs=9", "averaging=ema"]]
    for overrides in others:
        assert all(torch.equal(a, b) for a, b in zip(first, start(*overrides), strict=True))
    another_seed = start("optimizer=sgd", "seed=7")
    for place in (0, -1, -5):  # weights; of the last batch its mixture and its images
        assert not torch.equal(first[place], another_seed[place])


def test_a_record_that_cannot_be_read_is_an_error(tiny_run, folder):
    record = tiny_run("model=resnet8")
    path = folder / "results" / "default" / "records" / f"{record['run_id']}.json"
    path.write_text("{}")
    with pytest.raises(StateError, match="not the record of a run"):
        tiny_run("model=resnet8")


@pytest.mark.parametrize(
    "overrides", [["optimizer=sgd", "optimizer.base.lr=1e30"], ["optimizer=sam", "optimizer.rho=1e38"]]
)
def test_a_run_that_came_to_nothing_is_recorded_and_named_as_diverged(tiny_run, overrides, capsys):
    record = tiny_run("model=resnet8", "trainer.epochs=3", *overrides, "trainer.progress=plain")
    assert record["status"] == "diverged"
    assert "diverged" in capsys.readouterr().err
    assert record["skipped_steps"] == sum(record["history"]["skipped_steps"]) > 0


def test_a_run_says_what_it_is_and_where_its_record_is(tiny_run, capsys):
    record = tiny_run("model=resnet8", "optimizer=gsam", "trainer.progress=plain")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"{record['run_id']}  GSAM ρ 2 on sgd, resnet8, synthetic (10 images), test split, 1 epoch,"
    )
    assert last.endswith(f"written: results/default/records/{record['run_id']}.json")


def test_one_bad_batch_is_skipped_and_counted_and_hides_nothing(tiny_run, monkeypatch):
    epoch = Batches.epoch

    def with_one_bad(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            yield replace(batch, images=batch.images * float("nan")) if position == 1 else batch

    monkeypatch.setattr(Batches, "epoch", with_one_bad)
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.batch_size=3")
    assert record["status"] == "finished"
    assert record["history"]["skipped_steps"] == [1, 1]
    assert 0 < record["train_loss"] < 10


def test_the_last_epoch_is_evaluated_whatever_the_interval(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=3", "trainer.eval_every=2")
    errors = record["history"]["test_error"]
    assert [error is None for error in errors] == [True, False, False]
    assert record["test_error"] == errors[-1]


def test_the_last_batch_is_kept_or_dropped(tiny_run):
    kept, dropped = (
        tiny_run("model=resnet8", "trainer.epochs=2", "trainer.batch_size=4", f"trainer.drop_last={choice}")
        for choice in ("false", "true")
    )
    assert (kept["steps"], dropped["steps"]) == (2 * 3, 2 * 2)
    assert (kept["drop_last"], dropped["drop_last"]) == (False, True)
    for record, images in ((kept, 10), (dropped, 8)):
        assert record["images_per_second"] == pytest.approx(2 * images / record["train_seconds"])


def test_images_per_second_are_the_median_epochs(tiny_run):
    record = tiny_run("model=resnet8", "trainer.epochs=3")
    assert record["images_per_second"] == pytest.approx(10 / sorted(record["history"]["train_seconds"])[1])


def test_outside_a_checkout_the_commit_is_what_the_environment_says(monkeypatch, tmp_path):
    inside = git_commit()
    monkeypatch.setenv("SAM_BENCH_COMMIT", "abc")
    assert git_commit() == (inside or "abc")
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no git
    assert git_commit() == "abc"


def test_tuning_does_not_touch_the_test_set(tiny_run, small_synthetic):
    record = tiny_run("model=resnet8", "data.split=val")
    assert (record["train_images"], record["test_images"]) == (10, 20)
    assert record["dataset_sha256"] != tiny_run("model=resnet8")["dataset_sha256"]


def run_id(*overrides: str, device: str = "cpu", precision: str = "fp32") -> str:
    chosen = config(*overrides)
    return RunSpec.on(chosen, Hardware(torch.device(device), precision)).run_id


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optimizer.rho=0.1", "optimizer=gsam", "model=resnet20", "trainer.epochs=3", "data.flip=false",
     "schedule=cosine", "optimizer.base.lr=0.2", "optimizer.batchnorm=both", "trainer.smoothing_over=all",
     "optimizer.m=2", "optimizer.clip_norm=1.0", "trainer.max_skipped=1",
     "trainer.micro_batch_size=2", "averaging=swa", "optimizer.start_at=0.5", "trainer.drop_last=true",
     "data.padding=reflect", "schedule.warmup_start=0.25"],
)  # fmt: skip
def test_what_can_change_the_result_changes_the_run(override):
    assert run_id(override) != run_id()


@pytest.mark.parametrize(
    "override",
    ["paths.runs=elsewhere", "paths.results=elsewhere", "data.root=elsewhere", "data.timeout=5", "logger=wandb",
     "trainer.progress=bar", "trainer.rerun=true", "trainer.max_minutes=5", "trainer.checkpoint_every=3",
     "trainer.checkpoint_minutes=null", "trainer.deterministic=true", "trainer.engine=eager",
     "trainer.drop_last=false", "data.padding=zeros", "schedule.warmup_start=0", "optimizer.start_at=0"],
)  # fmt: skip
def test_what_cannot_change_the_result_does_not_change_the_run(folder, override):
    assert run_id(override) == run_id()


@pytest.mark.parametrize("name", ["usam-resnet8-seed0-c4e2c1054f", "vasso-resnet8-seed0-a5f831d064"])
def test_a_setting_that_came_later_leaves_the_names_of_earlier_runs_as_they_are(name):
    """Two of those whose records are committed."""
    overrides = ["experiment=quick", f"optimizer={name.partition('-')[0]}", "data.split=val", "seed=0"]
    chosen = compose.compose(overrides)
    assert RunSpec.on(chosen, Hardware(torch.device("cpu"), "bf16")).run_id == name


def test_a_run_warms_up_from_where_it_is_told_and_by_the_epoch(tiny_run):
    protocol = ["model=resnet8", "schedule.warmup_epochs=2", "schedule.every=epoch", "trainer.epochs=3"]
    assert tiny_run(*protocol)["history"]["lr"][:2] == pytest.approx([0.05, 0.1])
    assert tiny_run(*protocol, "schedule.warmup_start=0.25")["history"]["lr"][:2] == pytest.approx([0.025, 0.0625])


def test_the_padding_of_the_crop_makes_a_difference(tiny_run):
    zeros, reflect = (tiny_run("model=resnet8", f"data.padding={padding}") for padding in ("zeros", "reflect"))
    assert zeros["train_loss"] != reflect["train_loss"]


def test_device_and_precision_in_fact_used_are_part_of_the_run():
    exact = run_id("trainer.deterministic=true", device="cuda")
    assert len({run_id(), run_id(device="cuda"), run_id(precision="bf16"), exact}) == 4


def test_cuda_where_there_is_none_is_an_error_not_a_run_on_the_cpu(tiny_run, monkeypatch, folder):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        tiny_run("trainer.device=cuda")
    assert everything_below(folder) == []


def test_a_long_run_on_the_cpu_says_how_long_and_what_to_do_instead(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(pace, "STEPS", 1)
    three_steps = ["model=resnet8", "data.train_subset=30", "trainer.batch_size=10", "trainer.progress=plain"]
    tiny_run(*three_steps)
    assert "experiment=noisy40" not in capsys.readouterr().err
    monkeypatch.setattr(pace, "HOURS", 1e-9)
    tiny_run(*three_steps, "seed=1")
    assert "experiment=noisy40" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_method_trains_on_the_gpu(folder, small_synthetic, optimizer):
    record = execute(compose.compose([*TINY, "model=resnet8", f"optimizer={optimizer}", "trainer.device=cuda"]))
    assert record["status"] == "finished"
    assert record["precision"] == "bf16"
    assert record["config"]["trainer"]["device"] == "cuda"


@pytest.mark.cuda
@pytest.mark.parametrize("base", options("optimizer/base"))
def test_every_base_trains_on_the_gpu(folder, small_synthetic, base):
    if base == "schedule_free":
        pytest.importorskip("schedulefree")
    overrides = [*TINY, "model=resnet8", "optimizer=sam", f"optimizer/base={base}", "trainer.device=cuda"]
    assert execute(compose.compose(overrides))["status"] == "finished"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_peak_memory_is_of_the_run_not_of_what_was_before():
    hardware = Hardware(torch.device("cpu"), "fp32")
    block = torch.ones(2**27)
    with_block = hardware.peak_memory()
    del block
    hardware.forget_peak_memory()
    assert 2**20 < hardware.peak_memory() < with_block - 2**28


def torchrun(folder, *overrides: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "sam_bench",
    ]
    return subprocess.run(
        [*command, *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_two_processes_make_one_run_which_equals_that_of_one_with_half_the_batch_as_m(folder, records):
    overrides = ["experiment=smoke", "optimizer=gsam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
                 "trainer.precision=fp32", "trainer.device=cpu"]  # fmt: skip
    done = torchrun(folder, *overrides, "trainer.progress=plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == done.stdout.count("written: ") == 1
    ((name, together),) = records("smoke").items()
    assert (together["m"], together["processes"], together["passes"]) == (10, 2, 12)
    again = side_by_side(command_line, *overrides, "trainer.progress=plain", cwd=folder)
    assert [code for code, _ in again] == [0, 0]
    assert sorted(said.count("finished before") for _, said in again) == [0, 1]

    alone = execute(compose.compose([*overrides, "optimizer.m=10", "trainer.progress=none"]))
    assert (alone["m"], alone["processes"]) == (10, 1)
    assert together["history"]["train_loss"] == pytest.approx(alone["history"]["train_loss"], rel=1e-4)
    states = [last_checkpoint(folder, run_id, "smoke")["training"]["model"] for run_id in (name, alone["run_id"])]
    for key in states[0]:
        if "running" not in key and "num_batches" not in key:  # of the main process's half of each batch
            torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-3, atol=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_created(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=128 .* 3 processes"):
        run.check([compose.compose(["experiment=smoke"])])
    with pytest.raises(ConfigError, match="last batch of an epoch=20"):
        run.check([compose.compose(["experiment=smoke", "trainer.batch_size=120"])])
    with pytest.raises(ConfigError, match=r"optimizer\.m=65 .* 50 examples"):
        overrides = ["experiment=smoke", "trainer.batch_size=150", "data.train_subset=450", "optimizer.m=65"]
        run.check([compose.compose(overrides)])
    assert everything_below(folder) == []


def test_an_average_begins_with_the_first_epoch_after_its_start():
    model = torch.nn.Linear(1, 1)
    averages = Averages(AveragingConfig(name="swa", starts=(0.0, 0.5, 0.75)), model, epochs=4)
    for done in (1, 2, 3, 4):
        averages.after_epoch(done)
        averages.after_step()
    assert [average.count for average in averages.by_name.values()] == [4, 2, 1]
    averages = Averages(AveragingConfig(name="ema", decay=0.9), model, epochs=4)
    averages.after_epoch(1)
    averages.after_step()
    assert averages.by_name["ema 0.9"].count == 1
