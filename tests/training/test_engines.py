"""Which engine a run gets, and that all of them take the same steps."""

import importlib.util
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
from tests.training.test_cuda_graph import Watching, trained


def chosen(device: str, *overrides: str) -> tuple[str, str]:
    return choose_engine(compose.compose([*TINY, *overrides]), Hardware(torch.device(device), "bf16"))


@pytest.fixture
def triton(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "cc")


@pytest.mark.parametrize("name", METHODS)
def test_auto_captures_whatever_can_be_captured(triton, name):
    reason = METHODS[name].not_capturable
    engine, why = chosen("cuda", f"optimizer={name}")
    assert engine == ("compile" if reason else "graph")
    assert reason in why


@pytest.mark.parametrize("base", BASES)
def test_auto_does_not_capture_bases_that_count_on_the_host(triton, base):
    engine, why = chosen("cuda", f"optimizer/base={base}")
    on_host = ("adagrad", "adafactor", "muon", "schedule_free")
    assert engine == ("compile" if base in on_host else "graph")
    assert (base in why) == (engine == "compile")


@pytest.mark.parametrize("base", ["sgd", "adam", "adamw", "nadam", "adagrad"])
def test_on_cuda_a_base_is_one_kernel_where_every_torch_that_may_be_installed_has_it(base):
    config = compose.compose([*TINY, f"optimizer/base={base}"])
    with FakeTensorMode(), torch.device("cuda"):
        model = build_network(config)
        defaults = build_optimizer(config, model).base_optimizer.defaults
    assert next(model.parameters()).device.type == "cuda"
    assert bool(defaults["fused" if base != "nadam" else "capturable"]) == (base != "adagrad")


@pytest.mark.parametrize("reason", ["rounds in its own way", "Triton", "C compiler"])
def test_auto_says_why_it_does_not_compile_and_nothing_else_does(triton, monkeypatch, reason):
    if reason == "Triton":
        monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    elif reason == "C compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    overrides = ["trainer.deterministic=true"] if reason == "rounds in its own way" else []
    engine, why = chosen("cuda", *overrides)
    assert engine == "eager"
    assert reason in why
    for asked in ("compile", "graph"):
        with pytest.raises(ConfigError, match=reason):
            chosen("cuda", *overrides, f"trainer.engine={asked}")


def test_several_processes_are_not_captured(triton, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert chosen("cuda")[0] == "compile"


@pytest.mark.parametrize(
    ("device", "overrides", "reason"),
    [
        ("cpu", [], "the device is the CPU"),
        ("cuda", ["optimizer=esam"], "random mask"),
        ("cuda", ["optimizer/base=adafactor"], "adafactor"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(device, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        chosen(device, *overrides, "trainer.engine=graph")


@pytest.mark.parametrize("elsewhere", ["none", "tf32"])
def test_single_precision_is_single_precision_and_what_compilers_ask_can_be_read(elsewhere, monkeypatch):
    monkeypatch.setattr(torch.backends, "fp32_precision", elsewhere)
    Hardware(torch.device("cpu"), "fp32").configure(deterministic=False)
    assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == ("ieee", "ieee")
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.benchmark_limit == 0


def test_on_the_cpu_auto_is_eager():
    assert chosen("cpu") == ("eager", "")


@pytest.mark.parametrize(("engine", "same"), [("auto", True), ("eager", True), ("compile", False)])
def test_compiled_kernels_are_part_of_what_a_run_is(folder, engine, same):
    ids = {
        RunSpec.resolve(compose.compose([*TINY, "trainer.device=cpu", *own])).run_id
        for own in ([], [f"trainer.engine={engine}"])
    }
    assert (len(ids) == 1) == same


def test_a_captured_run_is_that_of_the_same_compiled_kernels():
    config = compose.compose(TINY)
    identities = [
        RunSpec.on(config, Hardware(torch.device("cuda"), "bf16"), engine).identity for engine in ("compile", "graph")
    ]
    assert identities[0] == identities[1]


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="there is no C++ compiler"
)


def test_the_tenth_run_of_a_program_is_compiled_too(monkeypatch):
    compiled = []
    whole = torch.compile

    def counting(work, **options):
        def backend(graph, examples):
            compiled[-1] += 1
            return graph.forward

        return whole(work, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", counting)
    for _ in range(10):
        compiled.append(0)
        trained(Step, "sam", compiled=True, steps=4)
    assert compiled == [compiled[0]] * 10 and compiled[0] >= 2  # two sizes of a batch


@needs_compiler
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_compiled_steps_agree_within_rounding(precision, tolerance):
    hardware = Hardware(torch.device("cpu"), precision)
    eager, _, _ = trained(Step, "sam", hardware=hardware)
    compiled, step, said = trained(Step, "sam", hardware=hardware, compiled=True)
    assert said == [] and step.engine == "compile"
    for name, value in compiled["model"].items():
        difference = (value - eager["model"][name]).double().norm()
        assert difference <= tolerance * eager["model"][name].double().norm() + 1e-6, name
    assert differences(compiled["model"], eager["model"]) != []  # otherwise nothing was compiled


@pytest.mark.parametrize("name", ["sam", "wsam"])
@pytest.mark.parametrize("fails", ["forward", "backward", "second pass"])
def test_where_compiling_fails_the_run_goes_on_without_it_and_says_so(monkeypatch, name, fails):
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no compiler\nand more")

    def broken(function, **options):
        calls = iter(range(100))

        def compiled(*arguments):
            call = next(calls)
            if fails == "forward" or (fails == "second pass" and call == 1):
                raise RuntimeError("no compiler\nand more")
            loss, missed = function(*arguments)
            return (Breaks.apply(loss) if fails == "backward" else loss), missed

        return compiled

    eager, _, _ = trained(Step, name)
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(Watching, "handled", [])
    after, step, said = trained(Step, name, compiled=True, network=Watching)
    assert step.engine == "eager"
    assert said == ["torch.compile failed, so the run continues without it, slower: RuntimeError: no compiler"]
    assert differences(after, eager) == []
    assert set(Watching.handled) == {None}  # nothing of the failed step is kept in memory while it is taken again


def test_a_run_whose_network_cannot_be_compiled_is_finished_and_recorded_so(tiny_run, monkeypatch, capsys):
    def no_compiler(function, **options):
        def compiled(*arguments):
            raise RuntimeError("no compiler")

        return compiled

    plain = tiny_run("model=resnet8")
    monkeypatch.setattr(torch, "compile", no_compiler)
    record = tiny_run("model=resnet8", "trainer.engine=compile")
    assert (plain["engine"], record["engine"], record["compiled"]) == ("eager", "eager", False)
    assert record["config"] == plain["config"]  # a table has both in one row
    assert record["test_loss"] == plain["test_loss"]
    assert "continues without it" in capsys.readouterr().err


def test_errors_of_its_own_are_not_taken_for_the_compilers(monkeypatch):
    def compiled(function, **options):
        def out_of_memory(*arguments):
            raise torch.OutOfMemoryError("too large")

        return out_of_memory

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(torch.OutOfMemoryError):
        trained(Step, "sam", compiled=True)


@pytest.mark.cuda
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("engine", ["auto", "eager", "compile", "graph"])
def test_every_engine_trains_on_the_gpu(folder, small_synthetic, engine):
    own = [
        "model=resnet8",
        "trainer.device=cuda",
        "trainer.epochs=3",
        "data.train_subset=50",
        f"trainer.engine={engine}",
    ]
    record = execute(compose.compose([*TINY, *own]))
    assert record["status"] == "finished"
    assert record["engine"] == ("graph" if engine == "auto" else engine)
