"""A run as data: all that follows from its configuration on this machine, worked out once and handed down."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import BASES, METHODS
from sam_bench.runs.record import RunFiles
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.environment import world_size
from sam_bench.training.engines import choose_engine

PROTOCOL = 1
"""Counts changes of the code after which the same settings give another result; part of every run's identity."""


@dataclass(frozen=True)
class RunSpec:
    """A configuration, and what it means here: the parent of a sweep makes one of each run, and so does each worker."""

    config: Config
    hardware: Hardware
    """The device and the precision that "auto" stands for."""
    engine: str
    """How steps are taken: "eager", "compile" or "graph"."""
    engine_reason: str
    """Why `trainer.engine=auto` is not "graph" on CUDA, for the user; else empty."""
    world_size: int
    """The number of processes that work on the run."""
    m: int | None
    """Examples that share a perturbation, the m of m-sharpness; None for a method without a second pass."""
    batchnorm: str
    """Where BatchNorm's running statistics at the end of the run come from: see `batchnorm_policy`."""
    identity: dict[str, Any]
    """All that decides the run's result: the settings that can change it; device, precision and m in fact used."""
    files: RunFiles
    """Where the run keeps what it has; named after the identity."""

    @classmethod
    def resolve(cls, config: Config) -> "RunSpec":
        """Work out what a configuration means on this machine.

        Raises:
            ConfigError: there is no such device, or it does not allow the engine that is asked for.
        """
        hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
        engine, reason = choose_engine(config, hardware)
        return cls.on(config, hardware, engine, reason)

    @classmethod
    def on(cls, config: Config, hardware: Hardware, engine: str = "eager", engine_reason: str = "") -> "RunSpec":
        """The spec of a configuration on a device and an engine that are chosen already."""
        m = _m(config)
        policy = batchnorm_policy(config)
        identity = _identity(config, hardware, engine, m, policy)
        run_id = f"{config.optimizer.name}-{config.model.title}-seed{config.seed}-{digest(identity)}"
        paths = config.paths
        experiment = config.experiment
        files = RunFiles(paths.runs_of(experiment), paths.results_of(experiment), run_id)
        return cls(config, hardware, engine, engine_reason, world_size(), m, policy, identity, files)

    @property
    def run_id(self) -> str:
        """The run's name: readable, and the same if and only if the identity is."""
        return self.files.run_id

    def describe(self) -> str:
        """The run in a few words."""
        config = self.config
        optimizer = self.config.optimizer
        data = self.config.data
        own = config.trainer.batch_size // self.world_size
        parts = [METHODS[optimizer.name].title]
        if optimizer.rho is not None:
            parts[0] += f" ρ {optimizer.rho:g}"
        parts[0] += f" on {optimizer.base.name}"
        if (optimizer.m or own) < own:
            parts.append(f"m {optimizer.m}")
        if config.averaging.name != "none":
            parts.append(f"averaging {config.averaging.name}")
        if self.world_size > 1:
            parts.append(f"{self.world_size} processes")
        subset = f" ({data.train_subset} images)" if data.train_subset else ""
        labels = "" if data.labels == "clean" else f" with labels {data.labels}"
        epochs = f"{config.trainer.epochs} epoch{'s' if config.trainer.epochs > 1 else ''}"
        parts += [config.model.title, f"{data.name}{subset}{labels}", f"{data.split} split", epochs]
        engine = {"eager": "eager", "compile": "compiled", "graph": "compiled and captured"}[self.engine]
        precision = self.hardware.precision + (f" ({self.hardware.reason})" if self.hardware.reason else "")
        return ", ".join([*parts, self.hardware.name, precision, engine])

    def identity_of(self, compiled: bool) -> dict[str, Any]:
        """The identity of what was done in fact, where compiling may have been given up on the way."""
        trainer = self.identity["trainer"]
        kept = {key: value for key, value in trainer.items() if key != "compiled" or compiled}
        return self.identity | {"trainer": kept}


def batchnorm_policy(config: Config) -> str:
    """Where BatchNorm's running statistics at the end of a run come from.

    "clean": the unperturbed passes. "both": all passes. "re-estimated": a pass over the training images before the last
    evaluation, for a method that has no unperturbed pass; before each, for a base whose average of the weights is
    evaluated.
    """
    others = METHODS[config.optimizer.name].perturbs_first or BASES[config.optimizer.base.name].averages
    return "re-estimated" if others else config.optimizer.batchnorm


def check_shares(config: Config) -> None:
    """Find out whether every batch can be divided among the processes.

    Raises:
        ConfigError: one cannot, or a process's share of it is smaller than m.
    """
    count = world_size()
    size = config.trainer.batch_size
    images = config.data.train_images
    last = images % size if not config.trainer.drop_last else 0
    for batch, name in ((size, "trainer.batch_size"), (last, "the last batch of an epoch")):
        if batch % count:
            raise ConfigError(
                f"{name}={batch} cannot be divided equally among {count} processes; choose another "
                "trainer.batch_size, data.train_subset or --nproc_per_node"
            )
    if count > 1 and config.trainer.freeze is not None:
        raise ConfigError(
            f"trainer.freeze={list(config.trainer.freeze)} ends the training of parameters within a run, for which "
            f"DistributedDataParallel does not allow, and there are {count} processes: use one process, or leave "
            "trainer.freeze out"
        )
    if (config.optimizer.m or 0) > size // count:
        raise ConfigError(
            f"optimizer.m={config.optimizer.m} is more than the {size // count} examples of a batch that a process "
            "has: lower it, or leave it out for all of them"
        )


def _m(config: Config) -> int | None:
    optimizer = config.optimizer
    size = config.trainer.batch_size
    if not METHODS[optimizer.name].has_second_pass:
        return None
    return size if optimizer.sync_perturbation else optimizer.m or size // world_size()


def _identity(config: Config, hardware: Hardware, engine: str, m: int | None, batchnorm: str) -> dict[str, Any]:
    """What is about several processes changes nothing in one. A captured step gives the bits of a compiled one."""
    identity = config.identity()
    optimizer = identity["optimizer"]
    trainer = identity["trainer"]
    if m is not None:
        optimizer["m"] = m
        optimizer["sync_perturbation"] &= world_size() > 1
    optimizer["batchnorm"] = batchnorm
    if package := METHODS[config.optimizer.name].package:
        optimizer["package"] = package
    if config.averaging.name in ("swa", "ema"):
        identity["averaging"]["estimation"] = "weighted"  # of running statistics: batches count by their size
    trainer |= {"device": hardware.device.type, "precision": hardware.precision}
    if engine != "eager":
        trainer["compiled"] = True
    if config.trainer.drop_last:
        trainer["drop_last"] = True
    if config.trainer.deterministic and hardware.device.type == "cuda":
        trainer["deterministic"] = True
    if world_size() > 1:
        trainer["processes"] = world_size()
    return identity | {"protocol": PROTOCOL}


def digest(identity: dict[str, Any]) -> str:
    """Return what an identity is called in a run's id."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
