"""Tests of refused command lines: one message names the key and the rule or the way out, and nothing is created."""

import pytest

from sam_bench.cli import main
from sam_bench.data import cifar
from sam_bench.runs import run
from tests.conftest import everything_below

SYNTHETIC = ["data=synthetic"]

#: For each case: the arguments, what the message must name, and what it must say about it.
REFUSED = {
    # Commands and keys
    "unknown command": (["stduy", "noisy40"], "Unknown command stduy", "did you mean study"),
    "setting without value as command": (["seed"], "Unknown command seed", "key=value"),
    "spaces around =": (["seed", "=", "3"], "seed", "no spaces"),
    "space in list": (["-m", "seed=0,", "1"], "seed=0,", "no spaces"),
    "unclosed list": (["optimizer.rho=[1,"], "optimizer.rho=[1,", "cannot be parsed"),
    "unknown reference": (["optimizer.rho=${nothing}"], "nothing", "not found"),
    "misspelt setting": (["optimizer.rh=1"], "optimizer.rh", "did you mean rho"),
    "misspelt setting after +": (["optimizer=gsam", "+optimizer.rh=1"], "optimizer.rh", "did you mean rho"),
    "misspelt setting without group": (["sed=1"], "sed", "did you mean seed"),
    "misspelt group": (["trainr.epochs=1"], "trainr", "did you mean trainer"),
    "setting without its group": (["rho=0.1"], "rho", "did you mean optimizer.rho"),
    "setting without its group after +": (["+lr=0.1"], "lr", "did you mean optimizer.base.lr"),
    "setting of inner group": (["optimizer.lr=0.1"], "optimizer.lr", "did you mean optimizer.base.lr"),
    # Groups
    "removed group": (["~optimizer"], "optimizer", "cannot be left out"),
    "null for group": (["averaging=null"], "averaging=null", "cannot be left out"),
    "group after +": (["+optimizer=sam"], "+optimizer=sam", "takes no +: write optimizer=sam"),
    "several options of group": (["optimizer=[sam,sgd]"], "optimizer=[sam,sgd]", "-m optimizer=sam,sgd"),
    "mapping for group": (["trainer={a: 1}"], "trainer={a: 1}", "one name"),
    "number for group": (["trainer=5"], "group", "string"),
    "mapping for value": (["paths.runs={a: 1}"], "paths.runs", "a string"),
    "option in capitals": (["averaging=SWA"], "averaging=SWA", "did you mean swa"),
    "unknown network": (["model=wrn16_9"], "model=wrn16_9", "did you mean wrn16_8"),
    "unknown method": (["optimizer=gsma"], "optimizer=gsma", "did you mean gsam"),
    "unknown base optimizer": (["optimizer/base=adamv"], "adamv", "adamw"),
    "unknown experiment": (["experiment=quik"], "experiment=quik", "did you mean quick"),
    "unknown logger": (["logger=[wandb,comet]"], "comet", "wandb"),
    # Methods
    "negative rho": (["optimizer.rho=-1"], "optimizer.rho=-1", "at least 0"),
    "NaN for rho": (["optimizer.rho=nan"], "optimizer.rho=nan", "finite"),
    "infinite rho": (["optimizer.rho=inf"], "optimizer.rho=inf", "finite"),
    "word for rho": (["optimizer.rho=large"], "optimizer.rho='large'", "a number"),
    "removed rho": (["~optimizer.rho"], "optimizer.rho", "needs one"),
    "rho for SGD": (["optimizer=sgd", "optimizer.rho=0.1"], "optimizer.rho", "no meaning"),
    "rho for SGD after +": (["optimizer=sgd", "+optimizer.rho=0.1"], "optimizer.rho", "no meaning for sgd"),
    "option of another method": (["optimizer=sam", "+optimizer.alpha=0.4"], "optimizer.alpha", "no meaning for sam"),
    "rho_min above rho": (["optimizer.rho_schedule=linear", "optimizer.rho_min=1"], "rho_min=1", "greater than"),
    "rho_min equal to rho": (["optimizer=gsam", "optimizer.rho_schedule=linear"], "rho_schedule", "lower rho_min"),
    "unknown rho_schedule": (["optimizer.rho_schedule=cosin"], "rho_schedule=cosin", "did you mean cosine"),
    "gamma of 1 for WSAM": (["optimizer=wsam", "optimizer.gamma=1"], "optimizer.gamma=1", "below 1"),
    "gamma of 0 for ESAM": (["optimizer=esam", "optimizer.gamma=0"], "optimizer.gamma=0", "above 0"),
    "k of 0": (["optimizer=looksam", "optimizer.k=0"], "optimizer.k=0", "at least 1"),
    "negative clip_norm": (["optimizer.clip_norm=-1"], "optimizer.clip_norm=-1", "above 0"),
    "m above batch size": ([*SYNTHETIC, "optimizer.m=129"], "optimizer.m=129", "128 examples"),
    "m for one-pass method": (["optimizer=msam", "+optimizer.m=32"], "optimizer.m", "no meaning"),
    "m with synchronised perturbation": (
        ["optimizer.m=32", "optimizer.sync_perturbation=true"],
        "optimizer.m=32",
        "remove one",
    ),
    "start_at of 1": (["optimizer.start_at=1"], "optimizer.start_at=1", "must be below 1"),
    "start_at for one-pass method": (["optimizer=sgd", "+optimizer.start_at=0.5"], "start_at", "no meaning"),
    "SAM-ON without normalisation layers": (
        [*SYNTHETIC, "optimizer=sam_on", "model=torchvision", "model.arch=squeezenet1_1"],
        "optimizer=sam_on",
        "normalisation layers",
    ),
    # Base optimizers
    "base without momentum for MSAM": (["optimizer=msam", "optimizer/base=adagrad"], "optimizer=msam", "adamw"),
    "no momentum for MSAM": (["optimizer=msam", "optimizer.base.momentum=0"], "optimizer=msam", "momentum=0.9"),
    "learning rate of preset for AdamW": (
        ["experiment=quick", "optimizer/base=adamw"],
        "optimizer.base.lr=0.3, chosen for sgd",
        "set optimizer.base.lr=0.001",
    ),
    "weight decay tuned for SGD for AdamW": (
        ["experiment=noisy40", "optimizer/base=adamw", "optimizer.base.lr=0.001"],
        "optimizer.base.weight_decay=0.00273",
        "set optimizer.base.weight_decay=0.01",
    ),
    "learning rate of 0": (["optimizer.base.lr=0"], "optimizer.base.lr=0", "above 0"),
    "momentum of 1": (["optimizer.base.momentum=1"], "optimizer.base.momentum=1", "below 1"),
    "Nesterov without momentum": (
        ["optimizer.base.momentum=0", "optimizer.base.nesterov=true"],
        "nesterov",
        "momentum",
    ),
    "three betas": (["optimizer/base=adamw", "optimizer.base.betas=[0.9,0.99,0.999]"], "betas", "two numbers"),
    # Averages
    "no average for WASAM": (["optimizer=wasam", "averaging=none"], "averaging=none", "averaging=swa"),
    "EMA for WASAM": (["optimizer=wasam", "averaging=ema"], "averaging=ema", "averaging=swa"),
    "SWA without starts": (["averaging=swa", "averaging.starts=[]"], "averaging.starts=[]", "one or more"),
    "SWA from the end on": (["averaging=swa", "averaging.starts=[1.0]"], "averaging.starts=1", "below 1"),
    "number for starts": (["averaging=swa", "averaging.starts=0.75"], "averaging.starts=0.75", "such as [0.75]"),
    "starts for EMA": (["averaging=ema", "+averaging.starts=[0.5]"], "averaging.starts", "no meaning"),
    # Networks
    "unknown family": (["model.family=wide_resnt"], "model.family", "did you mean wide_resnet"),
    "model.name": (["model.name=wrn16_8"], "model.name", "Choose a network with model="),
    "depth between two blocks": (["model.depth=17"], "model.depth=17", "6n + 4; the nearest is 16"),
    "depth below one block": (["model=resnet20", "model.depth=2"], "model.depth=2", "6n + 2; the nearest is 8"),
    "unpublished depth": (["model=resnet18", "model.depth=20"], "model.depth=20", "18 or 34"),
    "removed depth": (["~model.depth"], "model.depth", "wide_resnet needs one"),
    "width of 0": (["model.width=0"], "model.width=0", "at least 1"),
    "width of another family": (["model=resnet20", "model.width=2"], "model.width", "no meaning"),
    "width of another family after +": (["model=resnet20", "+model.width=2"], "model.width=2", "no meaning for resnet"),
    "arch of another family": (["+model.arch=resnet18"], "model.arch", "no meaning for wide_resnet"),
    "empty arch": ([*SYNTHETIC, "model=torchvision", "model.arch=''"], "model.arch=", "does not exist"),
    "unknown arch": ([*SYNTHETIC, "model=torchvision", "model.arch=resnet19"], "arch=resnet19", "did you"),
    "arch for larger images": ([*SYNTHETIC, "model=torchvision", "model.arch=alexnet"], "alexnet", "32×32"),
    # Data
    "file as data folder": (["data.root=/nonexistent/file.txt"], "data.root", "/nonexistent"),
    "home folder of unknown user": (["data.root='~nosuchuser/x'"], "data.root", "home folder"),
    "subset that cannot be balanced": (["data.train_subset=15"], "data.train_subset=15", "multiple of 10"),
    "subset without all classes": (["data=cifar100", "data.train_subset=50"], "train_subset=50", "CIFAR-100"),
    "subset above training set": (["data.train_subset=60000"], "data.train_subset=60000", "50000"),
    "subset above part of split": (["data.split=val", "data.train_subset=50000"], "train_subset", "45000"),
    "unknown padding": (["data.padding=mirror"], "data.padding=mirror", "reflect"),
    "unknown split": (["data.split=validation"], "data.split=validation", "val"),
    "number for truth value": (["data.crop=1"], "data.crop=1", "true or false"),
    # Training
    "fraction for epochs": (["trainer.epochs=1.5"], "trainer.epochs=1.5", "whole number"),
    "no epochs": (["trainer.epochs=0"], "trainer.epochs=0", "at least 1"),
    "truth value for number": (["trainer.batch_size=true"], "trainer.batch_size=True", "whole number"),
    "drop_last with less than a batch": (
        ["trainer.drop_last=true", "data=synthetic", "data.train_subset=100"],
        "trainer.drop_last=true",
        "trainer.batch_size=128 is more",
    ),
    "micro-batch above batch size": (["trainer.micro_batch_size=129"], "trainer.micro_batch_size=129", "lower it"),
    "micro-batches with m": (
        ["optimizer.m=32", "trainer.micro_batch_size=16"],
        "trainer.micro_batch_size=16",
        "optimizer.m",
    ),
    "micro-batches for ESAM": (
        ["optimizer=esam", "trainer.micro_batch_size=16"],
        "trainer.micro_batch_size=16",
        "esam",
    ),
    "label smoothing of 1": (["trainer.label_smoothing=1"], "trainer.label_smoothing=1", "below 1"),
    "label smoothing above uniform": (["trainer.label_smoothing=0.95"], "label_smoothing=0.95", "at most 0.9"),
    "unknown precision": (["trainer.precision=fp8"], "trainer.precision=fp8", "fp16"),
    "unknown device": (["trainer.device=tpu"], "trainer.device=tpu", "cpu"),
    "missing GPU": (["-m", *SYNTHETIC, "seed=1,2", "trainer.device=cuda"], "trainer.device=cuda", "no CUDA"),
    "CUDA graph on CPU": (["trainer.engine=graph"], "trainer.engine=graph", "the device is the CPU"),
    "negative max_skipped": (["trainer.max_skipped=-1"], "trainer.max_skipped=-1", "at least 0"),
    "max_minutes of 0": (["trainer.max_minutes=0"], "trainer.max_minutes=0", "above 0"),
    "checkpoint_minutes of 0": (["trainer.checkpoint_minutes=0"], "trainer.checkpoint_minutes=0", "above 0"),
    "negative seed": (["seed=-1"], "seed=-1", "at least 0"),
    "removed seed": (["~seed"], "seed", "no value"),
    # Learning-rate schedules
    "lr_min above lr": (["schedule.lr_min=1"], "schedule.lr_min=1", "below"),
    "warm-up over all epochs": (["schedule.warmup_epochs=200"], "schedule.warmup_epochs=200", "smaller"),
    "warmup_start above 1": (["schedule.warmup_start=1.5"], "schedule.warmup_start=1.5", "at most 1"),
    "milestones for cosine": (["schedule=cosine", "+schedule.milestones=[0.5]"], "milestones", "no meaning"),
    # Folders and loggers
    "file as results folder": ([*SYNTHETIC, "paths.results=/dev/null"], "paths.results", "not a folder"),
    "runs folder that cannot be created": ([*SYNTHETIC, "paths.runs=/proc/runs"], "/proc", "paths.runs"),
    "runs in home folder of unknown user": (["paths.runs='~nosuchuser/x'"], "paths.runs", "home folder"),
    "empty W&B project": (["logger=wandb", "logger.wandb.project=''"], "logger.wandb.project", "empty"),
    # Sweeps and launchers
    "launcher for single run": (["hydra/launcher=joblib", *SYNTHETIC], "hydra/launcher=joblib", "add -m"),
    "launcher without hydra/": (["launcher=joblib"], "launcher", "did you mean hydra/launcher"),
    "misspelt setting of launcher": (
        ["-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2"],
        "hydra.launcher.njobs",
        "Unknown setting",
    ),
    "unknown launcher": (["-m", "hydra/launcher=slrum", "seed=0,1"], "hydra/launcher=slrum", "slurm"),
    "--cfg with sweep": (["-m", "seed=0,1", "--cfg", "job"], "--cfg", "Only one"),
    "one bad run of sweep": (["-m", "optimizer.rho=0.1,-1"], "optimizer.rho=-1", "at least 0"),
    "sweep file for another method": (["sweep=rho", "optimizer=sgd"], "optimizer.rho", "no meaning"),
    "params of sweeper": (
        ["-m", "+hydra.sweeper.params={optimizer.rho:'0.1,0.2'}"],
        "+hydra.sweeper.params",
        "Write each range as a setting of its own",
    ),
}


@pytest.mark.parametrize(("arguments", "key", "reason"), REFUSED.values(), ids=REFUSED)
def test_command_line_is_refused(arguments, key, reason, command, folder, monkeypatch):
    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("the run was started"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, error = command(*arguments)

    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: ")
    assert key in error
    assert reason in error
    assert "Traceback" not in error
    assert out == ""
    assert everything_below(folder) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("trainer:\n  epochs: 1\n", "must begin with # @package _global_"),
        ("# @package _global_\ntrainer: {epochs: 1\n", "not valid YAML"),
        ("# @package _global_\ntrainer:\n  epoch: 1\n", "did you mean epochs"),
    ],
)
def test_invalid_own_preset_is_refused(text, reason, command, folder):
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "my_study.yaml").write_text(text)
    before = everything_below(folder)
    code, _, error = command("--config-dir", "mine", "experiment=my_study")

    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: ")
    assert reason in error
    assert everything_below(folder) == before


@pytest.mark.parametrize("arguments", [["seed=1"], ["-m", "seed=1,2"]], ids=["run", "sweep"])
def test_damaged_data_are_refused(arguments, command, folder):
    images = folder / "data" / "cifar-10-batches-bin"
    images.mkdir(parents=True)
    for name in cifar.SHA256:
        (images / name).write_bytes(bytes(cifar.RECORD))
    before = everything_below(folder)
    code, _, error = command(*arguments, "experiment=quick")

    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: data_batch_1.bin of data/cifar-10-batches-bin")
    assert len(error.splitlines()) == 1
    assert everything_below(folder) == before


def test_sweep_under_torchrun_is_refused(command, folder, monkeypatch):
    environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, error = command("-m", *SYNTHETIC, "seed=0,1")

    assert code == main.EXIT_CONFIG
    assert "without -m" in error
    assert everything_below(folder) == []
