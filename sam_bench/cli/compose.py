"""Composition of checked configs from a command line, and plain messages for what Hydra refuses."""

import argparse
import contextlib
import itertools
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_bench import plugins
from sam_bench.cli.sweep import Sweep
from sam_bench.config.fields import Settings
from sam_bench.config.schema import Config, path_of
from sam_bench.errors import ConfigError
from sam_bench.lookup import no_such, suggestion
from sam_bench.optim.registry import METHODS, MethodEntry, describe_options
from sam_bench.runtime.environment import world_size

_IN_WHEEL = Path(__file__).resolve().parents[1] / "conf"
#: The folder of the configuration files: inside the package in a wheel, at the top in a checkout.
CONF = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_WHEEL.parents[1] / "conf"

CONFIG_NAME = "config"

#: What a `_target_` may name, by its place in the configuration. Hydra calls targets, so all others are refused.
CALLED = {
    "hydra.launcher": r"hydra_plugins\.hydra_\w+_launcher\.\w+\.[A-Z]\w*Launcher|"
    r"hydra\._internal\.core_plugins\.basic_launcher\.BasicLauncher",
    "hydra.sweeper": r"hydra_plugins\.hydra_\w+_sweeper\.\w+\.[A-Z]\w*Sweeper|"
    r"hydra\._internal\.core_plugins\.basic_sweeper\.BasicSweeper",
    "hydra.sweeper.sampler": r"optuna\.samplers\.[A-Z]\w*Sampler",
}

NOT_INSTALLED = "hydra/{1}={0} needs a package that is not installed: pip install -e '.[{0}]'"

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

#: A sweep of more runs than this takes long to compose, so a line announces it.
MANY = 20

#: The folder of this command's sweep, named by the time at which the command began.
_sweep_folder = ""

# Our file for a launcher has the name of its package's own schema: Hydra 1.3 warns of that, Hydra 1.4 refuses it.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

OmegaConf.register_new_resolver("expanduser", lambda path: str(Path(path).expanduser()), replace=True)
OmegaConf.register_new_resolver("started", lambda: _sweep_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("own_settings", describe_options, replace=True)


@dataclass(frozen=True)
class Asked:
    """The runs that a command line asks for.

    Args:
        configs: the config of each run; of a sweeper that chooses its runs as it goes, only the first.
        titles: the overrides of each run, or None if the runs are not known beforehand.
        launcher: the name of Hydra's launcher; "basic" runs everything in this process.
        sweep: the sweep, or None for a single run or none.
        needs_gpu: whether the launcher waits for a GPU of this machine.
    """

    configs: list[Config]
    titles: list[str] | None
    launcher: str = "basic"
    sweep: Sweep | None = None
    needs_gpu: bool = False


def choices(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """Return the files of a configuration group, by option name.

    Args:
        config_dir: the user's folder from `--config-dir`. Its files replace ours of the same name.
    """
    folders = [CONF, *([config_dir] if config_dir else [])]
    return {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml"))}


def describe_preset(experiment: str) -> str:
    """Return the comment at the top of a preset's file; an empty string if the preset is not in `conf/`."""
    path = choices("experiment").get(experiment)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.removeprefix("# ") for line in comment if not line.startswith("# @"))


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
    _check_group_overrides(overrides)
    return _loader(config_dir).load_configuration(CONFIG_NAME, overrides, run_mode=RunMode.RUN)


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


def requested(arguments: argparse.Namespace) -> Asked:
    """Return the runs that a command line asks for.

    There are none if it asks for `--help`, for example. A sweeper that chooses its runs as it goes cannot be asked
    beforehand: only its first config is returned.

    Raises:
        ConfigError: the config of a run is not valid.
    """
    load_plugins(arguments.overrides)

    # Hydra answers these by itself, without a run.
    flags_without_run = ("help", "hydra_help", "cfg", "info", "shell_completion", "experimental_rerun", "config_path")
    if any(getattr(arguments, name) for name in flags_without_run):
        return Asked([], [])

    _check_group_overrides(arguments.overrides)
    with composing():
        loader = _loader(arguments.config_dir)
        name = arguments.config_name or CONFIG_NAME
        master = loader.load_configuration(
            name, arguments.overrides, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        _check_targets(OmegaConf.to_container(master.hydra, resolve=False), "hydra")

        # A single run.
        if not (arguments.multirun or master.hydra.mode == RunMode.MULTIRUN):
            single = loader.load_configuration(name, arguments.overrides, run_mode=RunMode.RUN)
            if (launcher := single.hydra.runtime.choices["hydra/launcher"]) != "basic":
                raise ConfigError(f"hydra/launcher={launcher} is for sweeps only: add -m")
            return Asked([read(single)], [""])

        _check_launcher(master.hydra)
        if world_size() > 1:
            raise ConfigError("a sweep cannot run under torchrun: start torchrun once for each run, without -m")
        launcher = master.hydra.runtime.choices["hydra/launcher"]
        sweep = Sweep(Path(master.hydra.sweep.dir))

        # A sweeper that chooses its runs as it goes, such as Optuna's.
        if not master.hydra.sweeper["_target_"].endswith(BasicSweeper.__name__):
            config = read(master)
            if config.data.split == "test":
                raise ConfigError(
                    f"hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']} chooses settings by their error, "
                    "and data.split=test measures it on the test set. Add data.split=val to use held-out images"
                )
            return Asked([config], None, launcher, sweep)

        # A grid, whose runs are all known now.
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        overrides = OverridesParser.create(loader).parse_overrides(params + list(master.hydra.overrides.task))
        runs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        if len(runs) > MANY:
            print(f"Composing and checking {len(runs)} runs", flush=True)
        configs = [read(loader.load_sweep_config(master, run)) for run in runs]
        return Asked(configs, [" ".join(run) for run in runs], launcher, sweep, _needs_gpu(launcher, master.hydra))


def explain(error: Exception) -> str:
    """Return a plain message for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("/submitit_slurm"):
        return NOT_INSTALLED.format("slurm", "launcher")
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("hydra/sweeper/optuna"):
        return NOT_INSTALLED.format("optuna", "sweeper")

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = list(METHODS) if group == "optimizer" else list(choices(group))
        if options := error.options or known:
            return no_such(group, option, options)

    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override} cannot be parsed (no spaces around = and commas; quote special characters): {reason}"
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {error}"

    # Hydra raises an error of its own from OmegaConf's, and only OmegaConf's has the key.
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    if key and key.startswith("hydra.") and " not in " in str(cause):
        return f"Unknown setting {key}: neither Hydra nor the chosen launcher (hydra/launcher=NAME) has it"
    if key and "is not in struct" in str(cause):
        return _explain_key(key)
    return str(error) if cause is error else f"{error}\n{cause}"


def _check_group_overrides(overrides: list[str]) -> None:
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


def _check_targets(node: Any, key: str) -> None:
    """Check that Hydra's own part of a configuration names no `_target_` but those in `CALLED`, since Hydra calls it.

    Raises:
        ConfigError: there is another target.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            _check_targets(item, f"{key}[{number}]")
    elif isinstance(node, dict):
        for name, item in node.items():
            if name == "_target_" and not re.fullmatch(CALLED.get(key, "(?!)"), str(item)):
                raise ConfigError(f"{key}._target_={item} is not a program that Hydra may call there: remove it")
            _check_targets(item, f"{key}.{name}")


def _check_launcher(hydra_config: DictConfig) -> None:
    """Check that the package of the chosen launcher is installed.

    Raises:
        ConfigError: the launcher's package is not installed.
    """
    if "_target_" not in hydra_config.launcher:  # the values in conf/ have none, the package adds it
        raise ConfigError(NOT_INSTALLED.format(hydra_config.runtime.choices["hydra/launcher"], "launcher"))


def _needs_gpu(launcher: str, hydra_config: DictConfig) -> bool:
    """Return True if Ray is started on this machine and reserves a GPU for each run."""
    ray = hydra_config.launcher.ray if launcher == "ray" else None
    return ray is not None and not ray.init.get("address") and bool(ray.remote.get("num_gpus"))


def _loader(config_dir: str | Path | None = None) -> ConfigLoaderImpl:
    setup_globals()
    path = create_config_search_path(str(CONF))
    if config_dir is not None:
        path.prepend("command-line", f"file://{Path(config_dir).absolute()}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=path)


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Turn errors that Hydra and OmegaConf raise inside this context into a `ConfigError` with a plain message."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error
    except AttributeError as error:
        if "full_key: hydra.sweeper.params" not in str(error):
            raise
        # OmegaConf raises an AttributeError when it merges a dictionary into null.
        raise ConfigError(
            "+hydra.sweeper.params cannot be set as a whole: it is null here. Write each range as a setting of its "
            "own: -m 'optimizer.rho=interval(0.01,0.3)', or 'optimizer.rho=0.1,0.2' for the basic sweeper"
        ) from error


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


def _explain_key(key: str) -> str:
    """Return why a key that Hydra does not find cannot be set."""
    if key == "launcher":
        return "Unknown setting launcher — did you mean hydra/launcher?"

    *groups, name = key.split(".")
    settings: type[Settings] | None = Config
    for group in groups:
        settings = settings.group(group) if settings else None

    if settings is None:
        return f"Unknown setting {key}{suggestion(groups[0], Config.names())}"
    if name in settings.names():
        return f"{key} has no meaning for the chosen {'.'.join(groups)}: remove it, or choose another"
    return settings.unknown(name, ".".join(groups))
