"""Composition of checked configs from a command line."""

import os
import re
import secrets
import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sam_bench import plugins
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.explain import composing
from sam_bench.cli.hydra_private import ConfigLoaderImpl, create_config_search_path
from sam_bench.config.fields import path_of
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS, MethodEntry, describe_options

CONFIG_NAME = "config"

#: The environment variable that passes the command line's `plugin=` file to the workers of a sweep.
PLUGIN = "SAM_BENCH_PLUGIN"

OPTIONAL = ("experiment", "sweep")
#: The configuration's groups. Each takes exactly one option; `logger` takes several, the optional ones may have none.
GROUPS = (
    "optimizer",
    "optimizer/base",
    "averaging",
    "model",
    "data",
    "schedule",
    "trainer",
    "analysis",
    "logger",
    *OPTIONAL,
)

#: The folder of this command's sweep, named by the time at which the command began.
_sweep_folder = ""

# Our file for a launcher has the name of its package's own schema: Hydra 1.3 warns of that, Hydra 1.4 refuses it.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

OmegaConf.register_new_resolver("expanduser", lambda path: str(Path(path).expanduser()), replace=True)
OmegaConf.register_new_resolver("started", lambda: _sweep_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("own_settings", describe_options, replace=True)


def new_command() -> None:
    """Choose a new folder for the sweep of this command."""
    global _sweep_folder
    _sweep_folder = f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(2)}"


def compose(overrides: list[str], config_dir: Path | None = None) -> Config:
    """Return the config of one run, from overrides as on the command line.

    Args:
        config_dir: the user's folder of configuration files, as in `--config-dir`.

    Raises:
        ConfigError: the overrides do not make a valid config.
    """
    with composing():
        return read(_compose_with_hydra(overrides, config_dir))


def compose_seeds(overrides: list[str], seeds: Iterable[int], config_dir: Path | None = None) -> dict[int, Config]:
    """Return the config of one run per seed, from overrides without a seed.

    A setting may follow the seed, as `data.subset_seed=${seed}` does. The files are read once for all seeds.

    Args:
        config_dir: the user's folder of configuration files, as in `--config-dir`.

    Raises:
        ConfigError: the overrides do not make a valid config.
    """
    configs = {}
    with composing():
        composed = _compose_with_hydra(overrides, config_dir)
        for seed in seeds:
            composed.seed = seed  # `read` resolves ${seed} afterwards
            configs[seed] = read(composed)
    return configs


def _compose_with_hydra(overrides: list[str], config_dir: Path | None) -> DictConfig:
    load_plugins(overrides)
    check_group_overrides(overrides)
    return make_loader(config_dir).load_configuration(CONFIG_NAME, overrides, run_mode=RunMode.RUN)


def load_plugins(overrides: list[str]) -> None:
    """Load the methods of installed packages and of the `plugin=` file, and register them with Hydra.

    Raises:
        ConfigError: a method cannot be loaded, or `plugin=` does not name exactly one file.
    """
    plugins.load_installed()

    plugin_overrides = [override for override in overrides if names_plugin(override)]
    for text in plugin_overrides:
        with composing():
            (override,) = OverridesParser.create().parse_overrides([text])
        if len(plugin_overrides) > 1 or override.is_sweep_override() or not isinstance(override.value(), str):
            raise ConfigError(f"{' '.join(plugin_overrides)}: plugin takes one file, such as plugin=mine.py")
        plugins.load_file(path_of("plugin", override.value()))

    for entry in [entry for entry in METHODS.values() if entry.package]:
        _register_method(entry)


def names_plugin(override: str) -> bool:
    """Return True if an override sets `plugin`."""
    return re.match(r"\+{0,2}plugin=", override) is not None


def _register_method(entry: MethodEntry) -> None:
    """Register a method that has no file in `conf/optimizer` with Hydra."""
    common = "two_pass" if entry.two_passes else "one_pass"
    radius = {"rho_schedule": "constant", "rho_min": 0.0} if entry.perturbs and not entry.two_passes else {}
    node = {"defaults": [{"base": "sgd"}, {"common@_here_": common}, "_self_"], "name": entry.name}
    ConfigStore.instance().store(entry.name, node | radius | dict(entry.defaults), "optimizer", provider=entry.package)


def _check_plugin(path: str) -> None:
    """Load the plug-in of a composed config if this process has not, as in a worker of a sweep.

    A plug-in is code that is executed, so only the command line may name one, never a configuration file.

    Raises:
        ConfigError: the command line did not name this file.
    """
    file = path_of("plugin", path)
    if plugins.is_loaded(file):
        return
    if os.environ.get(PLUGIN) != path:
        raise ConfigError(f"plugin={path} is code that is executed: give it on the command line, not in a file")
    plugins.load_file(file)


def check_group_overrides(overrides: list[str]) -> None:
    """Check that each override of a group chooses exactly one option.

    Hydra refuses the others too, but its messages do not say how to write the override.

    Raises:
        ConfigError: an override has no key, or it removes a group, adds one, or gives it several options.
    """
    for override in overrides:
        prefix, group, value = re.fullmatch(r"(\+\+|\+|~|)([^=]*)=?(.*)", override, re.S).groups()
        if prefix and not group:
            raise ConfigError(f"{override} has no key: write a setting as key=value")
        if group not in GROUPS:
            continue

        if (prefix == "~" or value == "null") and group not in OPTIONAL:
            raise ConfigError(f"{override}: {group} cannot be left out. Choose an option, {group}=NAME")
        if prefix in ("+", "++"):
            raise ConfigError(f"{override}: {group} always has an option and takes no {prefix}: write {group}={value}")
        if value.startswith(("[", "{")) and group != "logger":
            raise ConfigError(
                f"{override}: {group} takes one name. For a run with each, write -m {group}={value.strip('[]{}')}"
            )


def make_loader(config_dir: str | Path | None = None) -> ConfigLoaderImpl:
    """Return a loader of the files in `conf/`, and before them of those in the user's folder, if there is one."""
    setup_globals()
    path = create_config_search_path(str(CONF))
    if config_dir is not None:
        path.prepend("command-line", f"file://{Path(config_dir).absolute()}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=path)


def read(composed: DictConfig, choices: DictConfig | None = None) -> Config:
    """Return the checked config of what Hydra has composed.

    Args:
        choices: the option of each group, which names the experiment; None takes them from `composed`.

    Raises:
        ConfigError: the config is not valid.
    """
    if choices is None:
        choices = composed.hydra.runtime.choices
        _check_values_of_base(composed)
    for group in ("experiment", "sweep", "tuned"):
        if group in composed:
            raise ConfigError(f"{group}={choices[group]} has no effect: its file must begin with # @package _global_")

    values: Any = {key: node for key, node in OmegaConf.to_container(composed, resolve=False).items() if key != "hydra"}
    values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)

    if isinstance(values.get("plugin"), str):
        _check_plugin(values["plugin"])
    plugins.load_installed()
    return Config.build(values | {"experiment": str(choices.get("experiment") or "default")})


def _check_values_of_base(composed: DictConfig) -> None:
    """Check that a base optimizer from the command line does not get the learning rate or weight decay of a preset.

    Presets, and the values tuned for them, are for SGD. They would be wrong for any other base optimizer.

    Raises:
        ConfigError: a preset's learning rate or weight decay, and no value of the command line, would be used.
    """
    typed: Any = OmegaConf.to_container(composed.hydra.overrides.task)  # unresolved: ${seed} cannot be found there
    overrides = dict(override.lstrip("+").partition("=")[::2] for override in typed)
    base = composed.hydra.runtime.choices["optimizer/base"]
    if "optimizer/base" not in overrides or base == "sgd":
        return

    # The base optimizer's own values, from the first folder that has its file.
    folders = [Path(source.path) for source in composed.hydra.runtime.config_sources if source.schema == "file"]
    own = OmegaConf.load(next(path for f in folders if (path := f / "optimizer" / "base" / f"{base}.yaml").exists()))

    keys = [f"optimizer.base.{key}" for key in ("lr", "weight_decay")]
    replaced = {key: own[key.rpartition(".")[2]] for key in keys if key not in overrides}
    replaced = {key: value for key, value in replaced.items() if OmegaConf.select(composed, key) != value}
    if replaced:
        of_preset = " and ".join(f"{key}={OmegaConf.select(composed, key)}" for key in replaced)
        of_base = " ".join(f"{key}={value}" for key, value in replaced.items())
        raise ConfigError(
            f"optimizer/base={base} would use {of_preset}, chosen for sgd: set {of_base}, or another value"
        )
