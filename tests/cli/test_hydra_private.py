"""Tests of the private parts of Hydra: they exist, and take the parameters that the command line gives them."""

import ast
import importlib
import inspect

import hydra
import pytest

from tests.conftest import ROOT

MODULE = ROOT / "sam_bench" / "cli" / "hydra_private.py"

#: Each module of Hydra with a name that is imported from it.
IMPORTS = [
    (node.module, alias.name)
    for node in ast.parse(MODULE.read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]

#: The parameters that each function is called with.
PARAMETERS = {
    "ConfigLoaderImpl": {"config_search_path"},
    "ConfigLoaderImpl.load_configuration": {"config_name", "overrides", "run_mode", "validate_sweep_overrides"},
    "ConfigLoaderImpl.load_sweep_config": {"master_config", "sweep_overrides"},
    "BasicSweeper.split_arguments": {"overrides", "max_batch_size"},
    "create_config_search_path": {"search_path_dir"},
    "get_args_parser": set(),
}


@pytest.mark.parametrize(("module", "name"), IMPORTS)
def test_hydra_private_names_exist(module, name):
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(f"Hydra {hydra.__version__} has no {module}.{name}, which sam_bench uses: adapt {MODULE.name}")


@pytest.mark.parametrize("path", PARAMETERS)
def test_hydra_private_parameters_exist(path):
    name, *attributes = path.split(".")
    (module,) = (module for module, imported in IMPORTS if imported == name)
    value = getattr(importlib.import_module(module), name)
    for attribute in attributes:
        value = getattr(value, attribute)

    missing = PARAMETERS[path] - inspect.signature(value).parameters.keys()
    assert not missing, f"Hydra {hydra.__version__}: {path} has no parameter {', '.join(sorted(missing))}"
