"""Tests of the choice of an engine, and of compiled steps."""

import importlib.util
import itertools
import shutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import BASES, METHODS
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.training import engines
from sam_bench.training.build import build_network, build_optimizer
from sam_bench.training.engines import choose_engine
from sam_bench.training.step import Step
from tests.conftest import TINY, differences, execute
from tests.training.small_training import ErrorRecordingNetwork, train

# The choice


def choose(device: str, *overrides: str) -> tuple[str, str]:
    """Return the engine of a run on this device, and the reason."""
    return choose_engine(compose.compose([*TINY, *overrides]), Hardware(torch.device(device), "bf16"))


@pytest.fixture
def triton(monkeypatch):
    """Pretend that Triton and a C compiler are installed."""
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "cc")


@pytest.mark.parametrize("name", METHODS)
def test_auto_captures_capturable_methods(triton, name):
    reason = METHODS[name].why_not_captured
    engine, why = choose("cuda", f"optimizer={name}")
    assert engine == ("compile" if reason else "graph")
    assert reason in why


@pytest.mark.parametrize("base", BASES)
def test_auto_compiles_bases_that_count_on_host(triton, base):
    engine, why = choose("cuda", f"optimizer/base={base}")
    counts_on_host = base in ("adagrad", "adafactor", "muon", "schedule_free")
    assert engine == ("compile" if counts_on_host else "graph")
    assert (base in why) == (engine == "compile")


@pytest.mark.parametrize("base", ["sgd", "adam", "adamw", "nadam", "adagrad"])
def test_cuda_base_is_fused_where_torch_has_it(base):
    config = compose.compose([*TINY, f"optimizer/base={base}"])
    with FakeTensorMode(), torch.device("cuda"):
        model = build_network(config)
        defaults = build_optimizer(config, model).base_optimizer.defaults
    assert next(model.parameters()).device.type == "cuda"
    assert bool(defaults["fused" if base != "nadam" else "capturable"]) == (base != "adagrad")


@pytest.mark.parametrize("reason", ["rounds in its own way", "Triton", "C compiler"])
def test_auto_without_compile_gives_reason(triton, monkeypatch, reason):
    if reason == "Triton":
        monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    elif reason == "C compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    overrides = ["trainer.deterministic=true"] if reason == "rounds in its own way" else []

    engine, why = choose("cuda", *overrides)
    assert engine == "eager"
    assert reason in why
    for named in ("compile", "graph"):
        with pytest.raises(ConfigError, match=reason):
            choose("cuda", *overrides, f"trainer.engine={named}")


def test_several_processes_are_not_captured(triton, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose("cuda")[0] == "compile"


@pytest.mark.parametrize(
    ("device", "overrides", "reason"),
    [
        ("cpu", [], "the device is the CPU"),
        ("cuda", ["optimizer=esam"], "random mask"),
        ("cuda", ["optimizer/base=adafactor"], "adafactor"),
    ],
)
def test_impossible_graph_is_refused(device, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        choose(device, *overrides, "trainer.engine=graph")


@pytest.mark.parametrize("earlier", ["none", "tf32"])
def test_fp32_disables_tf32(earlier, monkeypatch):
    monkeypatch.setattr(torch.backends, "fp32_precision", earlier)
    Hardware(torch.device("cpu"), "fp32").configure(deterministic=False)
    assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == ("ieee", "ieee")

    # The old names of these settings, which torch.compile reads, agree with the new ones.
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.benchmark_limit == 0


def test_auto_on_cpu_is_eager():
    assert choose("cpu") == ("eager", "")


@pytest.mark.parametrize(("engine", "is_same"), [("auto", True), ("eager", True), ("compile", False)])
def test_only_compile_changes_run_id(engine, is_same):
    ids = {
        RunSpec.resolve(compose.compose([*TINY, "trainer.device=cpu", *overrides])).run_id
        for overrides in ([], [f"trainer.engine={engine}"])
    }
    assert (len(ids) == 1) == is_same


def test_graph_and_compile_share_identity():
    config = compose.compose(TINY)
    identities = [
        RunSpec.on(config, Hardware(torch.device("cuda"), "bf16"), engine).identity for engine in ("compile", "graph")
    ]
    assert identities[0] == identities[1]


# Compiled steps


def test_tenth_run_is_compiled_too(monkeypatch):
    compiled_graphs = []
    compile_function = torch.compile

    def compile_and_count(function, **options):
        def backend(graph, examples):
            compiled_graphs[-1] += 1
            return graph.forward

        return compile_function(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compile_and_count)
    for _ in range(10):
        compiled_graphs.append(0)
        train(Step, "sam", compiled=True, steps=4)

    assert compiled_graphs == [compiled_graphs[0]] * 10
    assert compiled_graphs[0] >= 2  # batches have two sizes


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_compiled_steps_agree_within_rounding(precision, tolerance):
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = train(Step, "sam", hardware=hardware)
    compiled, step, warnings = train(Step, "sam", hardware=hardware, compiled=True)
    assert warnings == [] and step.engine == "compile"
    for name, value in compiled["model"].items():
        difference = (value - eager["model"][name]).double().norm()
        assert difference <= tolerance * eager["model"][name].double().norm() + 1e-6, name
    assert differences(compiled["model"], eager["model"]) != []  # otherwise nothing was compiled


@pytest.mark.parametrize("name", ["sam", "wsam"])
@pytest.mark.parametrize("fails", ["forward", "backward", "second pass"])
def test_failed_compile_continues_eagerly(monkeypatch, name, fails):
    class FailingBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no compiler\nand more")

    def failing_compile(function, **options):
        calls = itertools.count()

        def compiled(*arguments):
            call = next(calls)
            if fails == "forward" or (fails == "second pass" and call == 1):
                raise RuntimeError("no compiler\nand more")
            loss, missed = function(*arguments)
            return (FailingBackward.apply(loss) if fails == "backward" else loss), missed

        return compiled

    eager, _, _ = train(Step, name)
    monkeypatch.setattr(torch, "compile", failing_compile)
    monkeypatch.setattr(ErrorRecordingNetwork, "errors", [])
    after, step, warnings = train(Step, name, compiled=True, network=ErrorRecordingNetwork)

    assert step.engine == "eager"
    (warning,) = warnings
    assert warning.endswith("RuntimeError: no compiler")  # only the error's first line
    assert differences(after, eager) == []
    assert set(ErrorRecordingNetwork.errors) == {None}  # the failed step is freed before it is repeated


def test_run_with_failed_compile_is_eager(tiny_run, monkeypatch, capsys):
    def failing_compile(function, **options):
        def compiled(*arguments):
            raise RuntimeError("no compiler")

        return compiled

    plain = tiny_run("model=resnet8")
    monkeypatch.setattr(torch, "compile", failing_compile)
    record = tiny_run("model=resnet8", "trainer.engine=compile")

    assert (plain["engine"], record["engine"], record["compiled"]) == ("eager", "eager", False)
    assert record["config"] == plain["config"]  # so a table has both in one row
    assert record["test_loss"] == plain["test_loss"]
    assert "continues without it" in capsys.readouterr().err


def test_out_of_memory_is_no_failed_compile(monkeypatch):
    def compile_out_of_memory(function, **options):
        def compiled(*arguments):
            raise torch.OutOfMemoryError("too large")

        return compiled

    monkeypatch.setattr(torch, "compile", compile_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        train(Step, "sam", compiled=True)


@pytest.mark.cuda
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("engine", ["auto", "eager", "compile", "graph"])
def test_every_engine_trains_on_gpu(folder, small_synthetic, engine):
    overrides = [*TINY, "model=resnet8", "trainer.device=cuda", "trainer.epochs=3", "data.train_subset=50"]
    record = execute(compose.compose([*overrides, f"trainer.engine={engine}"]))
    assert record["status"] == "finished"
    assert record["engine"] == ("graph" if engine == "auto" else engine)
