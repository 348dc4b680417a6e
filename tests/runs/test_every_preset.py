"""Tests that every network, method, base, schedule and experiment trains."""

import itertools
import sys

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.runs import run
from tests.conftest import FP16, TINY, execute, options


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

    # Not every base has what a method needs; for WSAM there is a way out.
    if optimizer == "wsam" and base in ("muon", "schedule_free"):
        with pytest.raises(ConfigError, match="decouple=False"):
            tiny_run(*overrides)
        overrides.append("optimizer.decouple=false")
    if optimizer == "msam" and base in ("adagrad", "adafactor", "asgd", "rmsprop", "schedule_free", "plain_sgd"):
        with pytest.raises(ConfigError, match="momentum"):
            tiny_run(*overrides)
        return

    record = tiny_run(*overrides)
    assert record["status"] == "finished"
    assert record["batchnorm"] == ("re-estimated" if optimizer == "msam" or base == "schedule_free" else "clean")


def test_base_with_missing_package_is_refused(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ConfigError, match=r"schedulefree.*pip install -e '.\[schedule-free\]'"):
        tiny_run("model=resnet8", "optimizer/base=schedule_free")


def test_muon_without_hidden_layers_is_refused(monkeypatch):
    monkeypatch.setattr(run, "build_network", lambda config: torch.nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"optimizer/base=muon with model=wrn16_8.*hidden layer"):
        run.check([compose.compose(["data=synthetic", "optimizer/base=muon"])])


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
