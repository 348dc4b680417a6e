"""The command line: what it does, what it refuses, and that a refusal creates nothing."""

import pytest

from sam_bench.cli import main
from sam_bench.data import cifar
from sam_bench.runs import run
from tests.conftest import TINY, everything_below

SYNTHETIC = ["data=synthetic"]
REFUSED = {
    "a typo after +": (["optimizer=gsam", "+optimizer.rh=1"], "optimizer.rh", "did you mean rho"),
    "an unknown command": (["stduy", "noisy40"], "Unknown command stduy", "did you mean study"),
    "a command that is none": (["seed"], "Unknown command seed", "key=value"),
    "a typo": (["optimizer.rh=1"], "optimizer.rh", "did you mean rho"),
    "a setting without its group": (["rho=0.1"], "rho", "did you mean optimizer.rho"),
    "the same after +": (["+lr=0.1"], "lr", "did you mean optimizer.base.lr"),
    "a setting of a group within": (["optimizer.lr=0.1"], "optimizer.lr", "did you mean optimizer.base.lr"),
    "a typo at the top": (["sed=1"], "sed", "did you mean seed"),
    "a typo in a group": (["trainr.epochs=1"], "trainr", "did you mean trainer"),
    "a graph on the CPU": (["trainer.engine=graph"], "trainer.engine=graph", "the device is the CPU"),
    "an epoch without a batch": (
        ["trainer.drop_last=true", "data=synthetic", "data.train_subset=100"],
        "trainer.drop_last=true",
        "trainer.batch_size=128 is more",
    ),
    "a negative radius": (["optimizer.rho=-1"], "optimizer.rho=-1", "at least 0"),
    "a radius that is no number": (["optimizer.rho=nan"], "optimizer.rho=nan", "finite"),
    "an infinite radius": (["optimizer.rho=inf"], "optimizer.rho=inf", "finite"),
    "a radius in words": (["optimizer.rho=large"], "optimizer.rho='large'", "a number"),
    "a radius of a method without one": (
        ["optimizer=sgd", "+optimizer.rho=0.1"],
        "optimizer.rho",
        "no meaning for sgd",
    ),
    "the same without +": (["optimizer=sgd", "optimizer.rho=0.1"], "optimizer.rho", "no meaning"),
    "another method's setting": (["optimizer=sam", "+optimizer.alpha=0.4"], "optimizer.alpha", "no meaning for sam"),
    "a missing setting": (["~optimizer.rho"], "optimizer.rho", "needs one"),
    "a missing value": (["~seed"], "seed", "no value"),
    "a schedule that rises": (["optimizer.rho_schedule=linear", "optimizer.rho_min=1"], "rho_min=1", "greater than"),
    "an unknown radius schedule": (["optimizer.rho_schedule=cosin"], "rho_schedule=cosin", "did you mean cosine"),
    "an unknown network": (["model=wrn16_9"], "model=wrn16_9", "did you mean wrn16_8"),
    "an unknown method": (["optimizer=gsma"], "optimizer=gsma", "did you mean gsam"),
    "an unknown base": (["optimizer/base=adamv"], "adamv", "adamw"),
    "a learning rate that was chosen for another base": (
        ["experiment=quick", "optimizer/base=adamw"],
        "optimizer.base.lr=0.3, chosen for sgd",
        "set optimizer.base.lr=0.001",
    ),
    "tuned values that are another base's": (
        ["experiment=noisy40", "optimizer/base=adamw", "optimizer.base.lr=0.001"],
        "optimizer.base.weight_decay=0.00273",
        "set optimizer.base.weight_decay=0.01",
    ),
    "an unknown experiment": (["experiment=quik"], "experiment=quik", "did you mean quick"),
    "a name that is in no registry": (["model.family=wide_resnt"], "model.family", "did you mean wide_resnet"),
    "a name that follows from other settings": (["model.name=wrn16_8"], "model.name", "Choose a network with model="),
    "a depth between two blocks": (["model.depth=17"], "model.depth=17", "6n + 4; the nearest is 16"),
    "a depth that the paper has not": (["model=resnet18", "model.depth=20"], "model.depth=20", "18 or 34"),
    "a depth below one block": (["model=resnet20", "model.depth=2"], "model.depth=2", "6n + 2; the nearest is 8"),
    "a width of no channels": (["model.width=0"], "model.width=0", "at least 1"),
    "a network without a depth": (["~model.depth"], "model.depth", "wide_resnet needs one"),
    "a width of another network": (["model=resnet20", "+model.width=2"], "model.width=2", "no meaning for resnet"),
    "the same width without +": (["model=resnet20", "model.width=2"], "model.width", "no meaning"),
    "an architecture of another network": (["+model.arch=resnet18"], "model.arch", "no meaning for wide_resnet"),
    "a file as the data folder": (["data.root=/nonexistent/file.txt"], "data.root", "/nonexistent"),
    "a subset that cannot be balanced": (["data.train_subset=15"], "data.train_subset=15", "multiple of 10"),
    "a subset without all classes": (["data=cifar100", "data.train_subset=50"], "train_subset=50", "CIFAR-100"),
    "a subset that is too large": (["data.train_subset=60000"], "data.train_subset=60000", "50000"),
    "a subset larger than what is left": (["data.split=val", "data.train_subset=50000"], "train_subset", "45000"),
    "an unknown padding": (["data.padding=mirror"], "data.padding=mirror", "reflect"),
    "an unknown split": (["data.split=validation"], "data.split=validation", "val"),
    "half an epoch": (["trainer.epochs=1.5"], "trainer.epochs=1.5", "whole number"),
    "no epochs": (["trainer.epochs=0"], "trainer.epochs=0", "at least 1"),
    "a truth value for a number": (["trainer.batch_size=true"], "trainer.batch_size=True", "whole number"),
    "a number for a truth value": (["data.crop=1"], "data.crop=1", "true or false"),
    "an unknown precision": (["trainer.precision=fp8"], "trainer.precision=fp8", "fp16"),
    "sharpness of infinite weight": (["optimizer=wsam", "optimizer.gamma=1"], "optimizer.gamma=1", "below 1"),
    "a second pass on no examples": (["optimizer=esam", "optimizer.gamma=0"], "optimizer.gamma=0", "above 0"),
    "a name in capitals": (["averaging=SWA"], "averaging=SWA", "did you mean swa"),
    "a number for a list": (["averaging=swa", "averaging.starts=0.75"], "averaging.starts=0.75", "such as [0.75]"),
    "more in a part than in a batch": ([*SYNTHETIC, "optimizer.m=129"], "optimizer.m=129", "128 examples"),
    "a period of no steps": (["optimizer=looksam", "optimizer.k=0"], "optimizer.k=0", "at least 1"),
    "a negative clipping": (["optimizer.clip_norm=-1"], "optimizer.clip_norm=-1", "above 0"),
    "one perturbation and several": (
        ["optimizer.m=32", "optimizer.sync_perturbation=true"],
        "optimizer.m=32",
        "remove one",
    ),
    "a method that never begins": (["optimizer.start_at=1"], "optimizer.start_at=1", "must be below 1"),
    "a late start of a method of one pass": (["optimizer=sgd", "+optimizer.start_at=0.5"], "start_at", "no meaning"),
    "parts of a batch for a method of one pass": (["optimizer=msam", "+optimizer.m=32"], "optimizer.m", "no meaning"),
    "momentum that is not there": (["optimizer=msam", "optimizer/base=adagrad"], "optimizer=msam", "adamw"),
    "momentum switched off": (["optimizer=msam", "optimizer.base.momentum=0"], "optimizer=msam", "momentum=0.9"),
    "weight averaging without an average": (["optimizer=wasam", "averaging=none"], "averaging=none", "averaging=swa"),
    "another average than the method's": (["optimizer=wasam", "averaging=ema"], "averaging=ema", "averaging=swa"),
    "an average from nowhere on": (["averaging=swa", "averaging.starts=[]"], "averaging.starts=[]", "one or more"),
    "an average that never starts": (["averaging=swa", "averaging.starts=[1.0]"], "averaging.starts=1", "below 1"),
    "a start for an exponential mean": (["averaging=ema", "+averaging.starts=[0.5]"], "averaging.starts", "no meaning"),
    "micro-batches and parts": (
        ["optimizer.m=32", "trainer.micro_batch_size=16"],
        "trainer.micro_batch_size=16",
        "optimizer.m",
    ),
    "micro-batches of chosen examples": (
        ["optimizer=esam", "trainer.micro_batch_size=16"],
        "trainer.micro_batch_size=16",
        "esam",
    ),
    "normalisation layers that are not there": (
        [*SYNTHETIC, "optimizer=sam_on", "model=torchvision", "model.arch=squeezenet1_1"],
        "optimizer=sam_on",
        "normalisation layers",
    ),
    "an unknown device": (["trainer.device=tpu"], "trainer.device=tpu", "cpu"),
    "more smoothed away than there is": (["trainer.label_smoothing=0.95"], "label_smoothing=0.95", "at most 0.9"),
    "a schedule that goes nowhere": (
        ["optimizer=gsam", "optimizer.rho_schedule=linear"],
        "rho_schedule",
        "lower rho_min",
    ),
    "an empty architecture": ([*SYNTHETIC, "model=torchvision", "model.arch=''"], "model.arch=", "does not exist"),
    "an architecture that does not exist": (
        [*SYNTHETIC, "model=torchvision", "model.arch=resnet19"],
        "arch=resnet19",
        "did you",
    ),
    "an architecture for larger images": ([*SYNTHETIC, "model=torchvision", "model.arch=alexnet"], "alexnet", "32×32"),
    "somebody unknown's home": (["data.root='~nosuchuser/x'"], "data.root", "home folder"),
    "somebody unknown's home for runs": (["paths.runs='~nosuchuser/x'"], "paths.runs", "home folder"),
    "a GPU where there is none": (
        ["-m", *SYNTHETIC, "seed=1,2", "trainer.device=cuda"],
        "trainer.device=cuda",
        "no CUDA",
    ),
    "all probability smoothed away": (["trainer.label_smoothing=1"], "trainer.label_smoothing=1", "below 1"),
    "a momentum of one": (["optimizer.base.momentum=1"], "optimizer.base.momentum=1", "below 1"),
    "nesterov without momentum": (
        ["optimizer.base.momentum=0", "optimizer.base.nesterov=true"],
        "nesterov",
        "momentum",
    ),
    "three betas": (["optimizer/base=adamw", "optimizer.base.betas=[0.9,0.99,0.999]"], "betas", "two numbers"),
    "a learning rate of zero": (["optimizer.base.lr=0"], "optimizer.base.lr=0", "above 0"),
    "a least rate above the greatest": (["schedule.lr_min=1"], "schedule.lr_min=1", "below"),
    "nothing but warm-up": (["schedule.warmup_epochs=200"], "schedule.warmup_epochs=200", "smaller"),
    "a warm-up from above": (["schedule.warmup_start=1.5"], "schedule.warmup_start=1.5", "at most 1"),
    "milestones of another schedule": (["schedule=cosine", "+schedule.milestones=[0.5]"], "milestones", "no meaning"),
    "a negative seed": (["seed=-1"], "seed=-1", "at least 0"),
    "a group for a value": (["trainer=5"], "group", "string"),
    "a value for a group": (["paths.runs={a: 1}"], "paths.runs", "a string"),
    "an injected target": (["+trainer._target_=os.system"], "_target_", "Unknown setting"),
    "an injected group": (["+callbacks={_target_: os.system}"], "callbacks", "Unknown setting"),
    "a group left out": (["~optimizer"], "optimizer", "cannot be left out"),
    "a group of nothing": (["averaging=null"], "averaging=null", "cannot be left out"),
    "a group added": (["+optimizer=sam"], "+optimizer=sam", "takes no +: write optimizer=sam"),
    "several options at once": (["optimizer=[sam,sgd]"], "optimizer=[sam,sgd]", "-m optimizer=sam,sgd"),
    "micro-batches larger than a batch": (["trainer.micro_batch_size=129"], "trainer.micro_batch_size=129", "lower it"),
    "a group for a group": (["trainer={a: 1}"], "trainer={a: 1}", "one name"),
    "a target for Hydra": (
        ["hydra.launcher._target_=os.system"],
        "hydra.launcher._target_=os.system",
        "not a program that Hydra may call",
    ),
    "a callback for Hydra": (
        ["+hydra.callbacks.a._target_=os.system"],
        "hydra.callbacks.a",
        "not a program that Hydra may call",
    ),
    "no skipped steps at all, and less": (["trainer.max_skipped=-1"], "trainer.max_skipped=-1", "at least 0"),
    "no time": (["trainer.max_minutes=0"], "trainer.max_minutes=0", "above 0"),
    "checkpoints in no time": (["trainer.checkpoint_minutes=0"], "trainer.checkpoint_minutes=0", "above 0"),
    "a launcher for one run": (["hydra/launcher=joblib", *SYNTHETIC], "hydra/launcher=joblib", "add -m"),
    "a launcher as a setting": (["launcher=joblib"], "launcher", "did you mean hydra/launcher"),
    "a typo for a launcher": (
        ["-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2"],
        "hydra.launcher.njobs",
        "Unknown setting",
    ),
    "an unknown launcher": (["-m", "hydra/launcher=slrum", "seed=0,1"], "hydra/launcher=slrum", "slurm"),
    "an unresolved reference": (["optimizer.rho=${nothing}"], "nothing", "not found"),
    "a broken override": (["optimizer.rho=[1,"], "optimizer.rho=[1,", "cannot be parsed"),
    "spaces around =": (["seed", "=", "3"], "seed", "no spaces"),
    "a spaced list": (["-m", "seed=0,", "1"], "seed=0,", "no spaces"),
    "one run and a sweep at once": (["-m", "seed=0,1", "--cfg", "job"], "--cfg", "Only one"),
    "a file where results go": (["data=synthetic", "paths.results=/dev/null"], "paths.results", "not a folder"),
    "a folder that cannot be made": (["data=synthetic", "paths.runs=/proc/runs"], "/proc", "paths.runs"),
    "one bad run of a sweep": (["-m", "optimizer.rho=0.1,-1"], "optimizer.rho=-1", "at least 0"),
    "one bad run of a sweep's file": (["sweep=rho", "optimizer=sgd"], "optimizer.rho", "no meaning"),
    "wandb without a project": (["logger=wandb", "logger.wandb.project=''"], "logger.wandb.project", "empty"),
    "a logger that is not": (["logger=[wandb,comet]"], "comet", "wandb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_message_that_names_key_and_rule_and_creates_nothing(case, command, folder, monkeypatch):
    arguments, key, rule = REFUSED[case]
    monkeypatch.setattr(run, "run", lambda *of: pytest.fail("it was begun"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, error = command(*arguments)
    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: ")
    assert key in error
    assert rule in error
    assert "Traceback" not in error
    assert out == ""
    assert everything_below(folder) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainer:\n  epochs: 1\n", "must begin with # @package _global_"),
        ("# @package _global_\ntrainer: {epochs: 1\n", "not valid YAML"),
        ("# @package _global_\ntrainer:\n  epoch: 1\n", "did you mean epochs"),
    ],
)
def test_a_preset_that_would_not_work_is_refused(text, said, command, folder):
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "my_study.yaml").write_text(text)
    before = everything_below(folder)
    code, _, error = command("--config-dir", "mine", "experiment=my_study")
    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: ")
    assert said in error
    assert everything_below(folder) == before


def test_what_hydra_is_asked_to_show_is_shown_without_a_run(command, folder):
    code, out, _ = command("--cfg", "job", "optimizer=gsam")
    assert code == 0
    assert "alpha: 0.4" in out
    code, out, _ = command("--help")
    assert code == 0
    assert "gsam" in out
    assert everything_below(folder) == []


def test_a_run_and_its_repetition(command, folder, small_synthetic, records):
    arguments = [*TINY, "experiment=smoke", "optimizer=gsam", "trainer.progress=plain"]
    code, out, _ = command(*arguments)
    assert code == 0
    assert "epoch 1/1" in out
    code, out, _ = command(*arguments)
    assert code == 0
    assert "finished before" in out
    assert len(records("smoke")) == 1
    assert not [name for name in everything_below(folder) if ".hydra" in name]


def test_a_sweep_shares_runs_with_single_ones_and_repeats_nothing(command, folder, small_synthetic, records):
    command(*TINY, "experiment=smoke", "optimizer=sam", "optimizer.rho=0.1")
    times = {name: record["train_seconds"] for name, record in records("smoke").items()}
    code, _, _ = command("-m", *TINY, "experiment=smoke", "optimizer=sam", "optimizer.rho=0.05,0.1,0.2")
    assert code == 0
    found = records("smoke")
    assert sorted(record["config"]["optimizer"]["rho"] for record in found.values()) == [0.05, 0.1, 0.2]
    assert all(found[name]["train_seconds"] == seconds for name, seconds in times.items())


@pytest.mark.parametrize("arguments", [["seed=1"], ["-m", "seed=1,2"]], ids=["run", "sweep"])
def test_damaged_data_are_refused_before_anything_is_created(arguments, command, folder):
    (folder / "data" / "cifar-10-batches-bin").mkdir(parents=True)
    for name in cifar.SHA256:
        (folder / "data" / "cifar-10-batches-bin" / name).write_bytes(bytes(cifar.RECORD))
    before = everything_below(folder)
    code, _, error = command(*arguments, "experiment=quick")
    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: data_batch_1.bin of data/cifar-10-batches-bin")
    assert len(error.splitlines()) == 1
    assert everything_below(folder) == before


def test_a_home_folder_is_expanded_for_runs_and_sweeps_alike(command, folder, small_synthetic, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    code, _, error = command("-m", *TINY, "model=resnet8", "paths.runs='~/runs'")
    assert (code, error) == (0, "")
    assert not (folder / "~").exists()
    assert sorted(path.name for path in (folder / "home" / "runs").iterdir()) == ["default", "sweeps"]


def test_own_presets_can_lie_anywhere(command, folder, small_synthetic, records):
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "my_study.yaml").write_text("# @package _global_\nseed: 7\n")
    code, _, error = command("--config-dir", "mine", *TINY, "model=resnet8", "experiment=my_study")
    assert (code, error) == (0, "")
    assert [record["seed"] for record in records("my_study").values()] == [7]
