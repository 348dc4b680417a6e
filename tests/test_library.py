"""Tests of the package as a library: its imports, its types and its examples."""

import doctest
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sam_bench
from sam_bench.optim.registry import METHODS, method
from sam_bench.testing import check_method
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: The examples in examples/frameworks, and the package that each of them needs.
FRAMEWORKS = {
    "accelerate_loop": "accelerate",
    "ddp": "torch",
    "fsdp": "torch",
    "huggingface_trainer": "transformers",
    "lightning_automatic": "pytorch_lightning",
    "lightning_manual": "pytorch_lightning",
}


def test_package_exports_every_method():
    for entry in METHODS.values():
        if entry.perturbs:
            assert issubclass(getattr(sam_bench, entry.class_name), sam_bench.SharpnessAware)
            assert entry.class_name in dir(sam_bench)
    with pytest.raises(AttributeError, match="no attribute 'SAMM'"):
        sam_bench.SAMM  # noqa: B018


@pytest.mark.parametrize("entry", METHODS.values(), ids=METHODS)
def test_registry_and_class_agree(entry):
    assert method(entry.name).two_passes == entry.two_passes
    assert (entry.cls.two_passes or entry.cls.perturbs_first) == entry.perturbs


def test_type_checkers_see_all_exports():
    source = (ROOT / "sam_bench" / "__init__.py").read_text()
    for name in sam_bench.__all__:
        assert f"import {name} as {name}" in source


def test_optimizers_need_no_optional_package():
    program = """
import sys
for name in ("hydra", "omegaconf", "wandb", "pandas", "rich", "scipy", "yaml", "torchvision", "PIL"):
    sys.modules[name] = None
import torch
from sam_bench import *
import sam_bench
model = torch.nn.Linear(2, 1)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
def closure():
    loss = model(torch.ones(1, 2)).sum()
    loss.backward()
    return loss
optimizer.step(closure)
[getattr(sam_bench, name) for name in sam_bench.__all__]
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_optimizers_import_only_torch():
    program = """
import sys, torch
before = set(sys.modules)
from sam_bench import SAM
print(*(name for name in set(sys.modules) - before if not name.startswith("sam_bench")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("module", ["sam_bench", "sam_bench.plugins", "sam_bench.data.registry"])
def test_import_does_not_import_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_learns(path):
    assert len(path.read_text().splitlines()) < 60

    # The losses after each epoch; the example on accumulation has two variants.
    if path.stem == "several_gpus":
        lines = run_example(path, processes=2)
        runs = [[float(line.split()[-1]) for line in lines if line.startswith("epoch")]]
    else:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        runs = [module.main(flag) for flag in (True, False)] if "accumulation" in path.stem else [module.main()]

    for losses in runs:
        assert len(losses) == 3
        assert losses[-1] < 0.35 < 1.5 < losses[0]


def run_example(path: Path, processes: int = 1) -> list[str]:
    """Run an example, with torchrun if there are several processes; return the lines that it prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_docs_link_every_framework_example():
    files = {path.stem for path in (ROOT / "examples" / "frameworks").glob("*.py")} - {"task"}
    assert files == set(FRAMEWORKS)
    page = (ROOT / "docs" / "frameworks.md").read_text()
    assert all(f"(../examples/frameworks/{name}.py)" in page for name in FRAMEWORKS)


@pytest.mark.parametrize(("name", "package"), FRAMEWORKS.items(), ids=FRAMEWORKS)
def test_framework_reaches_weights_of_plain_loop(name, package):
    pytest.importorskip(package)
    path = ROOT / "examples" / "frameworks" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60

    lines = [line for line in run_example(path, processes=2 if "dp" in name else 1) if "plain loop" in line]

    assert [line.split(":")[0] for line in lines] == ["SAM", "GSAM"]
    rounding = 1e-5 if name == "fsdp" else 0.0  # FSDP adds up the norms of shards, in another order
    assert all(float(line.split()[-1]) <= rounding for line in lines), lines


def test_user_program_passes_strict_mypy(tmp_path):
    pytest.importorskip("mypy")
    names = ", ".join(name for name in sam_bench.__all__ if name not in ("SAM", "OfficialASAM"))
    (tmp_path / "program.py").write_text(f"""
import torch
from sam_bench import SAM, OfficialASAM, {names}
from sam_bench.testing import check_method

model = torch.nn.Linear(2, 1)
optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
other = OfficialASAM(model.named_parameters(), torch.optim.AdamW(model.parameters()), eta=0.1, clip_norm=1.0)


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss: torch.Tensor = model(torch.ones(1, 2)).sum()
    torch.autograd.backward(loss)
    return loss


print(optimizer.step(closure).item(), optimizer.step([closure, closure], [0.5, 0.5]).item(), optimizer.skipped.item())
closure()
if other.first_step(zero_grad=True):
    closure()
other.second_step()
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
average = WeightAverage(model.parameters(), decay=0.9)
with frozen_statistics(model), evaluated_weights(optimizer), average.swapped():
    model(torch.ones(1, 2))
reestimate_statistics(model, [torch.ones(1, 2)])
check_method(SAM, None, rho=0.1)
optimizer.load_state_dict(other.state_dict())
wrong: str = optimizer.steps  # the one error: without it, an empty report could mean that nothing was checked
""")

    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "program.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    errors = [line for line in done.stdout.splitlines() if "program.py" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert '"int"' in errors[0] and '"str"' in errors[0]


@pytest.mark.parametrize("name", [*sam_bench.__all__, "check_method"])
def test_docstring_example_runs(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    x, y = torch.randn(12, 4), torch.arange(12) % 3

    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    # The names that the examples may use.
    public = {each: getattr(sam_bench, each) for each in sam_bench.__all__} | {"check_method": check_method}
    names = public | {
        "torch": torch,
        "functools": functools,
        "F": F,
        "model": model,
        "x": x,
        "y": y,
        "closure": closure,
    }

    (example,) = doctest.DocTestFinder(recurse=False).find(public[name], name, globs=names)
    report: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert outcome.attempted > 0
    assert outcome.failed == 0, "".join(report)
