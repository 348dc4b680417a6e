"""From a command line to checked configs: what Hydra composes, what is refused, and what is said of it."""

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

_PACKAGED = Path(__file__).resolve().parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "conf"
"""The folder of the configuration files: in a wheel inside the package, in a checkout at the top."""

CONFIG_NAME = "config"

CALLED = {
    "hydra.launcher": r"hydra_plugins\.hydra_\w+_launcher\.\w+\.[A-Z]\w*Launcher|"
    r"hydra\._internal\.core_plugins\.basic_launcher\.BasicLauncher",
    "hydra.sweeper": r"hydra_plugins\.hydra_\w+_sweeper\.\w+\.[A-Z]\w*Sweeper|"
    r"hydra\._internal\.core_plugins\.basic_sweeper\.BasicSweeper",
    "hydra.sweeper.sampler": r"optuna\.samplers\.[A-Z]\w*Sampler",
}
"""What Hydra may be told to call, and where: a configuration names nothing else that is executed."""

NOT_INSTALLED = "hydra/{1}={0} needs a package that is not installed: pip install -e '.[{0}]'"

PLUGIN = "SAM_BENCH_PLUGIN"
"""The environment variable by which the workers of a sweep know the file that the command line names."""

OPTIONAL = ("experiment", "sweep")
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
"""The configuration's groups: one option of each is chosen, of loggers several."""

MANY = 20
"""Runs of a sweep that take long enough to compose to be announced."""

_started = ""
"""A name for the sweep of this command, by time."""

# Our values for a launcher meet its package's own under one name, which Hydra 1.3 warns of, and Hydra 1.4 refuses.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

OmegaConf.register_new_resolver("expanduser", lambda path: str(Path(path).expanduser()), replace=True)
OmegaConf.register_new_resolver("started", lambda: _started, use_cache=True, replace=True)
OmegaConf.register_new_resolver("own_settings", describe_options, replace=True)


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Args:
        configs: of each run, as far as they are known beforehand.
        titles: of each run, or None where they are not known.
        launcher: its name, "basic" for this process.
        sweep: None for a single run, or none.
        needs_gpu: whether it cannot begin without one in this machine.
    """

    configs: list[Config]
    titles: list[str] | None
    launcher: str = "basic"
    sweep: Sweep | None = None
    needs_gpu: bool = False


def choices(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """Return the files of a group of the configuration, by the names that the command line has for them.

    Args:
        config_dir: a folder of the user's own, as `--config-dir` names it: its files come before ours.
    """
    folders = [CONF, *([config_dir] if config_dir else [])]
    return {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml"))}


def describe_preset(experiment: str) -> str:
    """Return what a preset's file says of it in its first lines; nothing of one that is not in `conf/`."""
    path = choices("experiment").get(experiment)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.removeprefix("# ") for line in comment if not line.startswith("# @"))


def new_command() -> None:
    """From here on a sweep gets a folder of its own."""
    global _started
    _started = f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(2)}"


def compose(overrides: list[str], config_dir: Path | None = None) -> Config:
    """The config of one run, from overrides as the command line takes them.

    Args:
        config_dir: a folder of the user's own, as `--config-dir` names it.

    Raises:
        ConfigError: they do not make a valid config.
    """
    with composing():
        return read(_composed(overrides, config_dir))


def compose_seeds(overrides: list[str], seeds: Iterable[int], config_dir: Path | None = None) -> dict[int, Config]:
    """Return the config of a run of each seed, from overrides that name none.

    A setting may follow the seed, as `data.subset_seed=${seed}` does. The files are read once for all seeds.

    Args:
        config_dir: a folder of the user's own, as `--config-dir` names it.

    Raises:
        ConfigError: they do not make a valid config.
    """
    configs = {}
    with composing():
        composed = _composed(overrides, config_dir)
        for seed in seeds:
            composed.seed = seed  # before anything that names it is resolved, which `read` does
            configs[seed] = read(composed)
    return configs


def _composed(overrides: list[str], config_dir: Path | None) -> DictConfig:
    load_plugins(overrides)
    _refuse_group_words(overrides)
    return _loader(config_dir).load_configuration(CONFIG_NAME, overrides, run_mode=RunMode.RUN)


def load_plugins(overrides: list[str]) -> None:
    """Offer the methods of installed packages, and those of the file that the command line names with `plugin=`.

    Raises:
        ConfigError: one of them cannot be offered, or it is not one file.
    """
    plugins.load_installed()
    words = [word for word in overrides if names_plugin(word)]
    for word in words:
        with composing():
            (override,) = OverridesParser.create().parse_overrides([word])
        if len(words) > 1 or override.is_sweep_override() or not isinstance(override.value(), str):
            raise ConfigError(f"{' '.join(words)}: plugin takes one file, plugin=mine.py")
        plugins.load_file(path_of("plugin", override.value()))
    for entry in [entry for entry in METHODS.values() if entry.package]:
        _offer(entry)


def names_plugin(override: str) -> bool:
    """Whether a word of the command line names a plug-in's file."""
    return re.match(r"\+{0,2}plugin=", override) is not None


def _offer(entry: MethodEntry) -> None:
    """Let Hydra know a method that has no file in `conf/optimizer`."""
    common = "two_pass" if entry.has_second_pass else "one_pass"
    radius = {"rho_schedule": "constant", "rho_min": 0.0} if entry.perturbs and not entry.has_second_pass else {}
    node = {"defaults": [{"base": "sgd"}, {"common@_here_": common}, "_self_"], "name": entry.name}
    ConfigStore.instance().store(entry.name, node | radius | dict(entry.defaults), "optimizer", provider=entry.package)


def _check_plugin(path: str) -> None:
    """Load the file that a configuration names, in a worker of a sweep; only the command line may name one.

    Raises:
        ConfigError: the command line did not.
    """
    file = path_of("plugin", path)
    if plugins.is_loaded(file):
        return
    if os.environ.get(PLUGIN) != path:
        raise ConfigError(f"plugin={path} is code that would be executed: name it on the command line, plugin={path}")
    plugins.load_file(file)


def requested(arguments: argparse.Namespace) -> Asked:
    """The runs that a command line asks for.

    There are none where it asks for help, say. Of a sweeper that chooses its runs as it goes, and so cannot be asked
    beforehand, there is only the first.

    Raises:
        ConfigError: one of them is not valid.
    """
    load_plugins(arguments.overrides)
    elsewhere = ("help", "hydra_help", "cfg", "info", "shell_completion", "experimental_rerun", "config_path")
    if any(getattr(arguments, name) for name in elsewhere):
        return Asked([], [])
    _refuse_group_words(arguments.overrides)
    with composing():
        loader = _loader(arguments.config_dir)
        name = arguments.config_name or CONFIG_NAME
        master = loader.load_configuration(
            name, arguments.overrides, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        _refuse_foreign(OmegaConf.to_container(master.hydra, resolve=False), "hydra")
        if not (arguments.multirun or master.hydra.mode == RunMode.MULTIRUN):
            only = loader.load_configuration(name, arguments.overrides, run_mode=RunMode.RUN)
            if (launcher := only.hydra.runtime.choices["hydra/launcher"]) != "basic":
                raise ConfigError(f"hydra/launcher={launcher} is for sweeps: add -m")
            return Asked([read(only)], [""])
        _require_launcher(master.hydra)
        if world_size() > 1:
            raise ConfigError("several processes share one run, not a sweep: start torchrun for each run, without -m")
        launcher = master.hydra.runtime.choices["hydra/launcher"]
        sweep = Sweep(Path(master.hydra.sweep.dir))
        if not master.hydra.sweeper["_target_"].endswith(BasicSweeper.__name__):
            config = read(master)
            if config.data.split == "test":
                raise ConfigError(
                    f"hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']} chooses settings by their error, "
                    "and data.split=test measures that on the test set. Add data.split=val, which holds images out"
                )
            return Asked([config], None, launcher, sweep)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        overrides = OverridesParser.create(loader).parse_overrides(params + list(master.hydra.overrides.task))
        runs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
        if len(runs) > MANY:
            print(f"Composing and checking {len(runs)} runs", flush=True)
        configs = [read(loader.load_sweep_config(master, run)) for run in runs]
        return Asked(configs, [" ".join(run) for run in runs], launcher, sweep, _needs_gpu(launcher, master.hydra))


def explain(error: Exception) -> str:
    """What a user needs to know of an error of Hydra's or OmegaConf's."""
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("/submitit_slurm"):
        return NOT_INSTALLED.format("slurm", "launcher")
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("hydra/sweeper/optuna"):
        return NOT_INSTALLED.format("optuna", "sweeper")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        own = list(METHODS) if group == "optimizer" else list(choices(group))
        if options := error.options or own:
            return no_such(group, option, options)
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override} cannot be understood (no spaces around = and commas; quote what is special): {reason}"
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {error}"
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    if key and key.startswith("hydra.") and " not in " in str(cause):
        return f"{key} is no setting of Hydra's, or none of the launcher that is chosen with hydra/launcher="
    if key and "is not in struct" in str(cause):
        return _explain_key(key)
    return str(error) if cause is error else f"{error}\n{cause}"


def _refuse_group_words(overrides: list[str]) -> None:
    """A group has one option at a time, and always one: what else is asked of it, Hydra answers in its own terms.

    Raises:
        ConfigError: such a thing is asked.
    """
    for word in overrides:
        prefix, group, value = re.fullmatch(r"(\+\+|\+|~|)([^=]*)=?(.*)", word, re.S).groups()
        if prefix and not group:
            raise ConfigError(f"{word} names nothing: settings are written key=value")
        if group not in GROUPS:
            continue
        if (prefix == "~" or value == "null") and group not in OPTIONAL:
            raise ConfigError(f"{word}: {group} cannot be left out; choose another, {group}=…")
        if prefix in ("+", "++"):
            raise ConfigError(f"{word}: {group} is chosen already, so that it takes no {prefix}: {group}={value}")
        if value.startswith(("[", "{")) and group != "logger":
            raise ConfigError(f"{word}: {group} takes one name; for a run with each, -m {group}={value.strip('[]{}')}")


def _refuse_foreign(node: Any, key: str) -> None:
    """Hydra calls what its own part of a configuration names: nothing that `CALLED` does not know shall stand there.

    Raises:
        ConfigError: something else does.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            _refuse_foreign(item, f"{key}[{number}]")
    elif isinstance(node, dict):
        for name, item in node.items():
            if name == "_target_" and not re.fullmatch(CALLED.get(key, "(?!)"), str(item)):
                raise ConfigError(f"{key}._target_={item} is nothing that is called there: remove it")
            _refuse_foreign(item, f"{key}.{name}")


def _require_launcher(hydra_config: DictConfig) -> None:
    """Check that the package of the chosen launcher is installed.

    Raises:
        ConfigError: it is not installed.
    """
    if "_target_" not in hydra_config.launcher:  # which is what a package adds to the values in conf/
        raise ConfigError(NOT_INSTALLED.format(hydra_config.runtime.choices["hydra/launcher"], "launcher"))


def _needs_gpu(launcher: str, hydra_config: DictConfig) -> bool:
    """Whether Ray is to be started on this machine, with a GPU for each run."""
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
    """Turns what Hydra and OmegaConf raise while they compose into errors for a user."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error
    except AttributeError as error:
        if "full_key: hydra.sweeper.params" not in str(error):
            raise
        # OmegaConf cannot merge a dictionary into a null one, and says so in an error of Python's own.
        raise ConfigError(
            "+hydra.sweeper.params cannot be added to, since it has no value here. Write each range as a setting of "
            "its own: -m 'optimizer.rho=interval(0.01,0.3)', or 'optimizer.rho=0.1,0.2' for the basic sweeper"
        ) from error


def read(composed: DictConfig, choices: DictConfig | None = None) -> Config:
    """The checked config of what Hydra has composed; its experiment is the preset's name."""
    if choices is None:
        choices = composed.hydra.runtime.choices
        _refuse_values_for_sgd(composed)
    for group in ("experiment", "sweep", "tuned"):
        if group in composed:
            raise ConfigError(f"{group}={choices[group]} has no effect: its file must begin with # @package _global_")
    values: Any = {key: node for key, node in OmegaConf.to_container(composed, resolve=False).items() if key != "hydra"}
    values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    if isinstance(values.get("plugin"), str):
        _check_plugin(values["plugin"])
    plugins.load_installed()
    return Config.build(values | {"experiment": str(choices.get("experiment") or "default")})


def _refuse_values_for_sgd(composed: DictConfig) -> None:
    """Presets, and what was tuned for them, have learning rate and weight decay of SGD: no other optimizer takes them.

    Raises:
        ConfigError: one that the command line chooses would.
    """
    typed: Any = OmegaConf.to_container(composed.hydra.overrides.task)  # as it was: ${seed} is not looked up there
    words = dict(word.lstrip("+").partition("=")[::2] for word in typed)
    base = composed.hydra.runtime.choices["optimizer/base"]
    if "optimizer/base" not in words or base == "sgd":
        return
    sources = [Path(source.path) for source in composed.hydra.runtime.config_sources if source.schema == "file"]
    own = OmegaConf.load(next(path for s in sources if (path := s / "optimizer" / "base" / f"{base}.yaml").exists()))
    keys = [f"optimizer.base.{key}" for key in ("lr", "weight_decay")]
    taken = {key: own[key.rpartition(".")[2]] for key in keys if key not in words}
    taken = {key: value for key, value in taken.items() if OmegaConf.select(composed, key) != value}
    if taken:
        theirs = " and ".join(f"{key}={OmegaConf.select(composed, key)}" for key in taken)
        ours = " ".join(f"{key}={value}" for key, value in taken.items())
        raise ConfigError(f"optimizer/base={base} would take {theirs}, chosen for sgd: say {ours}, or another value")


def _explain_key(key: str) -> str:
    """Why a key that Hydra does not find cannot be set."""
    if key == "launcher":
        return "launcher is no setting — did you mean hydra/launcher?"
    *groups, name = key.split(".")
    place: type[Settings] | None = Config
    for group in groups:
        place = place.group(group) if place else None
    if place is None:
        return f"{key} is no setting{suggestion(groups[0], Config.names())}"
    if name in place.names():
        return f"{key} has no meaning with what is chosen for {'.'.join(groups)}; remove it or choose another"
    return place.unknown(name, ".".join(groups))
