"""The house: which part may know of which, and what no part may do."""

import ast
from pathlib import Path

import pytest

from tests.conftest import CONF, ROOT

PACKAGE = ROOT / "sam_bench"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_IMPORT = {
    "cli": {
        "analysis", "cli", "config", "errors", "loggers.wandb", "lookup", "optim.registry", "plugins", "report", "runs",
        "runtime", "training.build",
    },
    "testing": {"optim"},
    "plugins": {"config.schema", "errors", "optim"},
    "runs": {
        "analysis", "config", "data", "errors", "loggers", "models.registry", "optim.registry", "runs", "runtime",
        "training",
    },
    "analysis": {"analysis", "config.schema", "data.images", "errors", "optim.running_stats"},
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
    """All modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        if name.startswith("sam_bench."):
            inner = name.removeprefix("sam_bench.")
            assert any(inner == may or inner.startswith(f"{may}.") for may in MAY_IMPORT[part]), name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hydra_stays_at_the_edge(path):
    outside = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not outside or path.parent.name == "cli"
    assert path.stem == "hydra_private" or not any(name.startswith("hydra._internal") for name in imports(path))


def unpickles(source: str) -> list[int]:
    """Return the lines of a program that let torch unpickle anything; what else executes data, ruff finds."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
    ]


@pytest.mark.parametrize("path", MODULES + sorted((ROOT / "scripts").rglob("*.py")), ids=lambda path: path.name)
def test_torch_unpickles_nothing_but_tensors_and_plain_values(path):
    assert unpickles(path.read_text()) == []


def test_it_would_be_found():
    assert unpickles("torch.load(path)\ntorch.load(path, weights_only=False)") == [1, 2]
    assert unpickles("torch.load(\n    path,\n    weights_only=True,\n)") == []


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_configuration_holds_values_only(path):
    assert "_target_" not in path.read_text()
