"""What a run is: the name that its configuration gives it, and what to say of it in a few words."""

import hashlib
import json
from typing import Any

from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS
from sam_bench.runs.record import RunFiles
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import world_size

PROTOCOL = 1
"""Counts changes of the code after which the same settings give another result; part of every run's identity."""


def identify(config: Config, hardware: Hardware) -> dict[str, Any]:
    """All that decides a run's result: the settings that can change it; device, precision and m in fact used.

    What is about several processes changes nothing in one. A captured step gives the bits of a compiled one.
    """
    identity = config.identity()
    if (m := shared_examples(config)) is not None:
        identity["optimizer"]["m"] = m
        identity["optimizer"]["sync_perturbation"] &= world_size() > 1
    identity["optimizer"]["batchnorm"] = batchnorm_policy(config)
    if config.averaging.name != "none":
        identity["averaging"]["estimation"] = "weighted"  # of running statistics: batches count by their size
    identity["trainer"] |= {"device": hardware.device.type, "precision": hardware.precision}
    if hardware.engine != "eager":
        identity["trainer"]["compiled"] = True
    if config.trainer.last_batch != "keep":
        identity["trainer"]["last_batch"] = config.trainer.last_batch
    if config.trainer.deterministic and hardware.device.type == "cuda":
        identity["trainer"]["deterministic"] = True
    if world_size() > 1:
        identity["trainer"]["processes"] = world_size()
    return identity | {"protocol": PROTOCOL}


def name_of(config: Config, identity: dict[str, Any]) -> str:
    """The run's name: readable, and the same if and only if the identity is."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{config.optimizer.name}-{config.model.title}-seed{config.seed}-{digest[:10]}"


def files_of(config: Config, hardware: Hardware) -> RunFiles:
    """Where the run keeps what it has."""
    paths, run_id = config.paths, name_of(config, identify(config, hardware))
    return RunFiles(paths.runs_of(config.experiment), paths.results_of(config.experiment), run_id)


def shared_examples(config: Config) -> int | None:
    """How many examples share a perturbation, the m of m-sharpness; None for a method without a second pass."""
    options, own = config.optimizer, config.trainer.batch_size // world_size()
    if not METHODS[options.name].looks_twice:
        return None
    return config.trainer.batch_size if options.sync_perturbation else options.m or own


def batchnorm_policy(config: Config) -> str:
    """Where BatchNorm's running statistics at the end of a run come from.

    "clean": the unperturbed passes. "both": all passes. "re-estimated": a pass over the training images before the last
    evaluation, for a method that has no unperturbed pass.
    """
    return "re-estimated" if METHODS[config.optimizer.name].looks_ahead else config.optimizer.batchnorm


def check_shares(config: Config) -> None:
    """Find out whether every batch can be divided among the processes.

    Raises:
        ConfigError: one cannot, or a process's share of it is smaller than m.
    """
    count, size = world_size(), config.trainer.batch_size
    images = config.data.train_images
    last = images % size if config.trainer.last_batch == "keep" else 0
    for batch, name in ((size, "trainer.batch_size"), (last, "the last batch of an epoch")):
        if batch % count:
            raise ConfigError(
                f"{name}={batch} cannot be divided equally among {count} processes; choose another "
                "trainer.batch_size, data.train_subset or --nproc_per_node"
            )
    if (config.optimizer.m or 0) > size // count:
        raise ConfigError(
            f"optimizer.m={config.optimizer.m} is more than the {size // count} examples of a batch that a process "
            "has: lower it, or leave it out for all of them"
        )


def describe(config: Config, hardware: Hardware) -> str:
    """A run in a few words."""
    optimizer, data = config.optimizer, config.data
    radius = f" ρ {optimizer.rho:g}" if optimizer.rho is not None else ""
    own = config.trainer.batch_size // world_size()
    parts = f", m {optimizer.m}" if (optimizer.m or own) < own else ""
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    averaging = f", averaging {config.averaging.name}" if config.averaging.name != "none" else ""
    method = f"{METHODS[optimizer.name].title}{radius} on {optimizer.base.name}"
    images = f"{data.name}{f' ({data.train_subset} images)' if data.train_subset else ''}, {data.split} split"
    epochs = f"{config.trainer.epochs} epoch{'s' if config.trainer.epochs > 1 else ''}"
    method += parts + averaging + processes
    how = {"eager": "eager", "compile": "compiled", "graph": "compiled and captured"}[hardware.engine]
    return f"{method}, {config.model.title}, {images}, {epochs}, {hardware.name}, {hardware.precision}, {how}"
