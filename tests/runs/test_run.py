"""Tests of runs, from a configuration to a record."""

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
from sam_bench.data.batches import Batches
from sam_bench.errors import ConfigError, StateError
from sam_bench.runs import run
from sam_bench.runs.provenance import git_commit
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training import build, pace
from sam_bench.training.evaluate import MEASURES
from tests.conftest import FP16, ROOT, TINY, everything_below, execute, last_checkpoint, lasting, options
from tests.forked import command_line, side_by_side

#: A run of two steps on the CPU.
SMALL = ["model=resnet8", *TINY, "trainer.device=cpu"]
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


@pytest.mark.parametrize("model", options("model"))
def test_every_network_trains(tiny_run, model):
    record = tiny_run("optimizer=sgd", f"model={model}", "data.train_subset=10")
    assert (record["status"], record["steps"], record["passes"]) == ("finished", 2, 2)


#: Passes of two steps on five images each, for the methods where they are not 4.
PASSES = {"sgd": 2, "msam": 2, "looksam": 3, "ss_sam": 3, "esam": 2 * (4 / 3 + 3 / 5)}

#: Averages that a record lists. Lookahead has none, because it writes its mean into the weights.
AVERAGED = {"swa": ["swa 0.75"], "ema": ["ema 0.999"]}

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
    overrides = FP16 if precision == "fp16" else ["model=resnet8", f"trainer.precision={precision}"]
    overrides = [*overrides, f"optimizer={optimizer}", f"averaging={averaging}"]
    if optimizer == "bsam":
        overrides.append("optimizer.examples=200000")  # with as few examples as here, its noise is too strong
    record = tiny_run(*overrides)

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


def test_record_has_version_of_base_package(tiny_run):
    assert "schedulefree" not in tiny_run("model=resnet8")["versions"]
    versions = tiny_run("model=resnet8", "optimizer/base=schedule_free")["versions"]
    assert versions["schedulefree"] == metadata.version("schedulefree")


def test_base_with_missing_package_is_refused(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"schedulefree.*pip install -e '.\[schedule-free\]'"):
        tiny_run("model=resnet8", "optimizer/base=schedule_free")


def test_muon_without_hidden_layers_is_refused(monkeypatch):
    monkeypatch.setattr(run, "build_network", lambda config: torch.nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"optimizer/base=muon with model=wrn16_8.*hidden layer"):
        run.check([compose.compose(["data=synthetic", "optimizer/base=muon"])])


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


def test_m_perturbs_each_part(tiny_run):
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
    overrides = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3"]
    record = tiny_run(*overrides, f"optimizer={optimizer}", f"optimizer.start_at={start_at}")
    assert (record["steps"], record["passes"]) == (12, passes)
    assert record["config"]["optimizer"]["start_at"] == start_at

    sgd = tiny_run(*overrides, "optimizer=sgd")
    assert record["history"]["train_loss"][0] == sgd["history"]["train_loss"][0]
    assert record["test_loss"] != sgd["test_loss"]


def test_pace_starts_anew_with_second_pass(tiny_run, monkeypatch):
    calls = []
    monkeypatch.setattr(pace.Pace, "after_step", lambda self, seconds, position, left: calls.append((id(self), left)))
    overrides = ["model=resnet8", "data.train_subset=20", "trainer.batch_size=6", "trainer.epochs=3", "optimizer=sam"]
    tiny_run(*overrides, "optimizer.start_at=0.5")

    # Steps of two passes count twice among those left, and are timed by another `Pace`.
    paces, left = zip(*calls, strict=True)
    assert left[:5] == (17, 16, 15, 14, 13) and left[5:] == (6, 5, 4, 3, 2, 1, 0)
    assert len(set(paces[:5])) == len(set(paces[5:])) == 1 and paces[0] != paces[5]


@pytest.mark.parametrize("rho_schedule", ["constant", "linear", "cosine", "proportional"])
@pytest.mark.parametrize("schedule", options("schedule"))
def test_every_schedule_trains(tiny_run, schedule, rho_schedule):
    record = tiny_run("model=resnet8", f"schedule={schedule}", f"optimizer.rho_schedule={rho_schedule}")
    assert record["status"] == "finished"
    assert len(record["history"]["lr"]) == len(record["history"]["rho"]) == 1


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_trains(tiny_run, experiment, folder):
    needed = {
        "airbench94": ["model=airbench94"],  # it freezes a layer that only its own network has
        "airbench96": ["model=airbench96"],
        "human40": ["data.labels=clean"],  # people labelled no generated image
    }
    overrides = ["model=resnet8", "schedule.warmup_epochs=0", *needed.get(experiment, [])]
    record = tiny_run(f"experiment={experiment}", *overrides)

    assert record["experiment"] == experiment
    assert (folder / "results" / experiment / "records" / f"{record['run_id']}.json").is_file()


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
    config = compose.compose([*SMALL, "data.label_noise=0.4", "data.mixup=0.2", *overrides])
    hardware = Hardware.choose("cpu", "fp32")
    training = build.prepare(config, build.load_data(config.data), hardware, "eager", Processes("cpu"))
    batches = [batch for epoch in (0, 3) for batch in training.train.epoch(epoch)]
    weights = [p.detach().clone() for p in training.model.parameters()]
    return [*weights, *(tensor for batch in batches for tensor in batch.tensors())]


def test_runs_of_one_seed_are_paired(small_synthetic, folder):
    first = initial_tensors("optimizer=sgd")
    others = [[f"optimizer={name}"] for name in options("optimizer")]
    others += [["optimizer=sam", "optimizer.rho=0.3", "optimizer.base.lr=0.01"], ["trainer.epochs=9", "averaging=ema"]]
    for overrides in others:
        assert all(torch.equal(a, b) for a, b in zip(first, initial_tensors(*overrides), strict=True))

    another_seed = initial_tensors("optimizer=sgd", "seed=7")
    for place in (0, -1, -5):  # first weights, then the last batch's mixture and images
        assert not torch.equal(first[place], another_seed[place])


def test_unreadable_record_is_refused(tiny_run, folder):
    record = tiny_run("model=resnet8")
    path = folder / "results" / "default" / "records" / f"{record['run_id']}.json"
    path.write_text("{}")
    with pytest.raises(StateError, match="not the record of a run"):
        tiny_run("model=resnet8")


@pytest.mark.parametrize(
    "overrides", [["optimizer=sgd", "optimizer.base.lr=1e30"], ["optimizer=sam", "optimizer.rho=1e38"]]
)
def test_diverged_run_is_recorded(tiny_run, overrides, capsys):
    record = tiny_run("model=resnet8", "trainer.epochs=3", *overrides, "trainer.progress=plain")
    assert record["status"] == "diverged"
    assert "diverged" in capsys.readouterr().err
    assert record["skipped_steps"] == sum(record["history"]["skipped_steps"]) > 0


def test_console_names_run_and_record(tiny_run, capsys):
    record = tiny_run("model=resnet8", "optimizer=gsam", "trainer.progress=plain")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(record["run_id"])
    for words in ("GSAM ρ 2", "sgd", "resnet8", "synthetic (10 images)", "test split", "1 epoch"):
        assert words in first
    assert last.endswith(f"results/default/records/{record['run_id']}.json")


def test_nan_batch_is_skipped_and_counted(tiny_run, monkeypatch):
    epoch = Batches.epoch

    def epoch_with_nan(batches, number, first=0):
        for position, batch in enumerate(epoch(batches, number, first), start=first):
            yield replace(batch, images=batch.images * float("nan")) if position == 1 else batch

    monkeypatch.setattr(Batches, "epoch", epoch_with_nan)
    record = tiny_run("model=resnet8", "trainer.epochs=2", "trainer.batch_size=3")
    assert record["status"] == "finished"
    assert record["history"]["skipped_steps"] == [1, 1]
    assert 0 < record["train_loss"] < 10


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


def test_commit_without_git_is_from_environment(monkeypatch, tmp_path):
    inside = git_commit()
    monkeypatch.setenv("SAM_BENCH_COMMIT", "abc")
    assert git_commit() == (inside or "abc")
    monkeypatch.setenv("PATH", str(tmp_path))  # so that no git is found
    assert git_commit() == "abc"


def test_val_split_leaves_test_set_alone(tiny_run, small_synthetic):
    record = tiny_run("model=resnet8", "data.split=val")
    assert (record["train_images"], record["test_images"]) == (10, 20)
    assert record["dataset_sha256"] != tiny_run("model=resnet8")["dataset_sha256"]


def run_id(*overrides: str, device: str = "cpu", precision: str = "fp32") -> str:
    config = compose.compose([*SMALL, *overrides])
    return RunSpec.on(config, Hardware(torch.device(device), precision)).run_id


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optimizer.rho=0.1", "optimizer=gsam", "model=resnet20", "trainer.epochs=3", "data.flip=false",
     "schedule=cosine", "optimizer.base.lr=0.2", "optimizer.batchnorm=both", "trainer.smoothing_over=all",
     "optimizer.m=2", "optimizer.clip_norm=1.0", "trainer.max_skipped=1",
     "trainer.micro_batch_size=2", "averaging=swa", "optimizer.start_at=0.5", "trainer.drop_last=true",
     "data.padding=reflect", "schedule.warmup_start=0.25"],
)  # fmt: skip
def test_setting_with_effect_changes_run_id(override):
    assert run_id(override) != run_id()


@pytest.mark.parametrize(
    "override",
    ["paths.runs=elsewhere", "paths.results=elsewhere", "data.root=elsewhere", "data.timeout=5", "logger=wandb",
     "trainer.progress=bar", "trainer.rerun=true", "trainer.max_minutes=5", "trainer.checkpoint_every=3",
     "trainer.checkpoint_minutes=null", "trainer.deterministic=true", "trainer.engine=eager",
     "trainer.drop_last=false", "data.padding=zeros", "schedule.warmup_start=0", "optimizer.start_at=0"],
)  # fmt: skip
def test_setting_without_effect_keeps_run_id(folder, override):
    assert run_id(override) == run_id()


@pytest.mark.parametrize("name", ["usam-resnet8-seed0-c4e2c1054f", "vasso-resnet8-seed0-a5f831d064"])
def test_later_settings_keep_committed_run_ids(name):
    # The records of both runs are committed.
    overrides = ["experiment=quick", f"optimizer={name.partition('-')[0]}", "data.split=val", "seed=0"]
    config = compose.compose(overrides)
    assert RunSpec.on(config, Hardware(torch.device("cpu"), "bf16")).run_id == name


def test_warmup_start_sets_first_rate(tiny_run):
    protocol = ["model=resnet8", "schedule.warmup_epochs=2", "schedule.every=epoch", "trainer.epochs=3"]
    assert tiny_run(*protocol)["history"]["lr"][:2] == pytest.approx([0.05, 0.1])
    assert tiny_run(*protocol, "schedule.warmup_start=0.25")["history"]["lr"][:2] == pytest.approx([0.025, 0.0625])


def test_crop_padding_changes_training(tiny_run):
    zeros, reflect = (tiny_run("model=resnet8", f"data.padding={padding}") for padding in ("zeros", "reflect"))
    assert zeros["train_loss"] != reflect["train_loss"]


def test_run_id_depends_on_device_and_precision():
    deterministic = run_id("trainer.deterministic=true", device="cuda")
    assert len({run_id(), run_id(device="cuda"), run_id(precision="bf16"), deterministic}) == 4


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


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_method_trains_on_gpu(folder, small_synthetic, optimizer):
    record = execute(compose.compose([*TINY, "model=resnet8", f"optimizer={optimizer}", "trainer.device=cuda"]))
    assert record["status"] == "finished"
    assert record["precision"] == "bf16"
    assert record["config"]["trainer"]["device"] == "cuda"


@pytest.mark.cuda
@pytest.mark.parametrize("base", options("optimizer/base"))
def test_every_base_trains_on_gpu(folder, small_synthetic, base):
    if base == "schedule_free":
        pytest.importorskip("schedulefree")
    overrides = [*TINY, "model=resnet8", "optimizer=sam", f"optimizer/base={base}", "trainer.device=cuda"]
    assert execute(compose.compose(overrides))["status"] == "finished"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process")
def test_peak_memory_excludes_earlier_peaks():
    hardware = Hardware(torch.device("cpu"), "fp32")
    block = torch.ones(2**27)
    with_block = hardware.peak_memory()
    del block
    hardware.forget_peak_memory()
    assert 2**20 < hardware.peak_memory() < with_block - 2**28


def torchrun(folder, *overrides: str) -> subprocess.CompletedProcess:
    """Train in two processes of torchrun."""
    torchrun_options = ["--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun_options, "-m", "sam_bench"]
    return subprocess.run(
        [*command, *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_two_processes_equal_one_with_parts(folder, records):
    overrides = ["experiment=smoke", "optimizer=gsam", "averaging=swa", "data.train_subset=60", "trainer.batch_size=20",
                 "trainer.precision=fp32", "trainer.device=cpu"]  # fmt: skip
    done = torchrun(folder, *overrides, "trainer.progress=plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == done.stdout.count("written: ") == 1
    ((name, together),) = records("smoke").items()
    assert (together["m"], together["processes"], together["passes"]) == (10, 2, 12)

    # The same run started again is not repeated, and one process says so.
    again = side_by_side(command_line, *overrides, "trainer.progress=plain", cwd=folder)
    assert [code for code, _ in again] == [0, 0]
    assert sorted(output.count("finished before") for _, output in again) == [0, 1]

    # One process with parts of half a batch takes the same steps.
    alone = execute(compose.compose([*overrides, "optimizer.m=10", "trainer.progress=none"]))
    assert (alone["m"], alone["processes"]) == (10, 1)
    assert together["history"]["train_loss"] == pytest.approx(alone["history"]["train_loss"], rel=1e-4)
    states = [last_checkpoint(folder, run_id, "smoke")["training"]["model"] for run_id in (name, alone["run_id"])]
    for key in states[0]:
        if "running" not in key and "num_batches" not in key:  # statistics of the main process's halves
            torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-3, atol=1e-5)


def test_indivisible_batch_is_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=128 .* 3 processes"):
        run.check([compose.compose(["experiment=smoke"])])
    with pytest.raises(ConfigError, match=r"last batch.*20"):
        run.check([compose.compose(["experiment=smoke", "trainer.batch_size=120"])])
    overrides = ["experiment=smoke", "trainer.batch_size=150", "data.train_subset=450", "optimizer.m=65"]
    with pytest.raises(ConfigError, match=r"optimizer\.m=65 .* 50 examples"):
        run.check([compose.compose(overrides)])
    assert everything_below(folder) == []
