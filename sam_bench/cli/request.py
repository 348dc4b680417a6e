"""The runs that a command line asks for, composed and checked before anything is created."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sam_bench.cli.compose import CONFIG_NAME, check_group_overrides, load_plugins, make_loader, read
from sam_bench.cli.explain import NOT_INSTALLED, composing
from sam_bench.cli.hydra_private import BasicSweeper
from sam_bench.cli.sweep import Sweep
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.runtime.environment import world_size

#: What a `_target_` may name, by its place in the configuration. Hydra calls targets, so all others are refused.
CALLED = {
    "hydra.launcher": r"hydra_plugins\.hydra_\w+_launcher\.\w+\.[A-Z]\w*Launcher|"
    r"hydra\._internal\.core_plugins\.basic_launcher\.BasicLauncher",
    "hydra.sweeper": r"hydra_plugins\.hydra_\w+_sweeper\.\w+\.[A-Z]\w*Sweeper|"
    r"hydra\._internal\.core_plugins\.basic_sweeper\.BasicSweeper",
    "hydra.sweeper.sampler": r"optuna\.samplers\.[A-Z]\w*Sampler",
}

#: A sweep of more runs than this takes long to compose, so a line announces it.
MANY = 20


@dataclass(frozen=True)
class RunRequest:
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


def read_request(arguments: argparse.Namespace) -> RunRequest:
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
        return RunRequest([], [])

    check_group_overrides(arguments.overrides)
    with composing():
        loader = make_loader(arguments.config_dir)
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
            return RunRequest([read(single)], [""])

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
            return RunRequest([config], None, launcher, sweep)

        # A grid, whose runs are all known now.
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        overrides = OverridesParser.create(loader).parse_overrides(params + list(master.hydra.overrides.task))
        runs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        if len(runs) > MANY:
            print(f"Composing and checking {len(runs)} runs", flush=True)
        configs = [read(loader.load_sweep_config(master, run)) for run in runs]
        return RunRequest(configs, [" ".join(run) for run in runs], launcher, sweep, _needs_gpu(launcher, master.hydra))


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
