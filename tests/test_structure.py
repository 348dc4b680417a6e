"""Tests of the code's structure: the imports of each part, and calls that no part may have."""

import ast
from pathlib import Path

import pytest

from tests.conftest import CONF, ROOT

PACKAGE = ROOT / "sam_bench"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: The modules of the package that each part may import.
MAY_IMPORT = {
    "cli": {
        "analysis", "cli", "config", "errors", "loggers.wandb", "lookup", "optim.registry", "plugins", "report", "runs",
        "runtime", "training.build",
    },
    "testing": {"optim"},
    "plugins": {"config.optimizer", "errors", "optim"},
    "runs": {
        "analysis", "config", "data", "errors", "loggers", "models.registry", "optim.registry", "runs", "runtime",
        "training",
    },
    "analysis": {"analysis", "config.analysis", "data.images", "errors", "optim.running_stats"},
    "training": {"analysis", "config", "data", "errors", "lookup", "models", "optim", "runtime", "training"},
    "report": {"errors", "lookup", "optim.registry", "report", "runs.files", "runs.record"},
    "loggers": {"config.fields", "errors", "loggers"},
    "data": {"data", "errors", "runtime"},
    "models": {"errors", "lookup", "models"},
    "optim": {"lookup", "optim"},
    "config": {"config", "data.registry", "errors", "loggers.registry", "lookup", "models.registry", "optim.registry"},
    "runtime": {"errors", "runtime"},
    "lookup": {"errors"},
    "errors": set(),
    "__main__": {"cli"},
    "__init__": {"lookup", "optim"},
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Return all modules that a file imports, at its top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_allowed(path):
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        if name.startswith("sam_bench."):
            module = name.removeprefix("sam_bench.")
            assert any(module == allowed or module.startswith(f"{allowed}.") for allowed in MAY_IMPORT[part]), name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_cli_imports_hydra(path):
    outside = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not outside or path.parent.name == "cli"
    assert path.stem == "hydra_private" or not any(name.startswith("hydra._internal") for name in imports(path))


def unsafe_loads(source: str) -> list[int]:
    """Return the lines that call torch.load without weights_only=True; ruff finds other ways to execute data."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
    ]


@pytest.mark.parametrize("path", MODULES + sorted((ROOT / "scripts").rglob("*.py")), ids=lambda path: path.name)
def test_torch_load_is_safe(path):
    assert unsafe_loads(path.read_text()) == []


def test_unsafe_loads_finds_the_lines():
    assert unsafe_loads("torch.load(path)\ntorch.load(path, weights_only=False)") == [1, 2]
    assert unsafe_loads("torch.load(\n    path,\n    weights_only=True,\n)") == []


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_config_names_no_target(path):
    assert "_target_" not in path.read_text()
