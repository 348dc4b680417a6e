"""The specification of a run: everything that follows from its configuration on this machine, worked out once."""

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

#: Version of the code's results, part of every run's identity. Changes after which the same settings give another
#: result raise it.
PROTOCOL = 1


@dataclass(frozen=True)
class RunSpec:
    """A configuration resolved on this machine. A sweep's parent process and its workers each resolve their own."""

    config: Config
    #: The device, and the precision, with "auto" resolved.
    hardware: Hardware
    #: How steps are taken: "eager", "compile" or "graph".
    engine: str
    #: Why `trainer.engine=auto` is not "graph" on CUDA, for the user; else empty.
    engine_reason: str
    #: The number of processes that work on the run.
    world_size: int
    #: Examples that share a perturbation, the m of m-sharpness; None for a method without a second pass.
    m: int | None
    #: Source of BatchNorm's running statistics at the end of the run: see `batchnorm_policy`.
    batchnorm: str
    #: Everything that decides the run's result: the settings that can change it, and the device, precision and m that
    #: they resolve to.
    identity: dict[str, Any]
    #: The paths of the run's files, named after the identity.
    files: RunFiles

    @classmethod
    def resolve(cls, config: Config) -> "RunSpec":
        """Work out what a configuration means on this machine.

        Raises:
            ConfigError: there is no such device, or the device or the method does not allow the requested engine.
        """
        hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
        engine, reason = choose_engine(config, hardware)
        return cls.on(config, hardware, engine, reason)

    @classmethod
    def on(cls, config: Config, hardware: Hardware, engine: str = "eager", engine_reason: str = "") -> "RunSpec":
        """Return the spec of a configuration on a device and an engine that are already chosen."""
        m = _examples_per_perturbation(config)
        policy = batchnorm_policy(config)
        identity = _identity(config, hardware, engine, m, policy)

        run_id = f"{config.optimizer.name}-{config.model.title}-seed{config.seed}-{digest(identity)}"
        paths = config.paths
        experiment = config.experiment
        files = RunFiles(paths.runs_of(experiment), paths.results_of(experiment), run_id)
        return cls(config, hardware, engine, engine_reason, world_size(), m, policy, identity, files)

    @property
    def run_id(self) -> str:
        """Return the run's name: readable, and equal for two runs if and only if their identities are equal."""
        return self.files.run_id

    def describe(self) -> str:
        """Describe the run in one line."""
        config = self.config
        optimizer = self.config.optimizer
        data = self.config.data
        batch_per_process = config.trainer.batch_size // self.world_size

        parts = [METHODS[optimizer.name].title]
        if optimizer.rho is not None:
            parts[0] += f" ρ {optimizer.rho:g}"
        parts[0] += f" on {optimizer.base.name}"
        if (optimizer.m or batch_per_process) < batch_per_process:
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
        """Return the identity of the run as it was trained: without "compiled" if compilation failed on the way."""
        trainer = self.identity["trainer"]
        kept = {key: value for key, value in trainer.items() if key != "compiled" or compiled}
        return self.identity | {"trainer": kept}


def batchnorm_policy(config: Config) -> str:
    """Return the source of BatchNorm's running statistics at the end of a run.

    "clean": the unperturbed passes. "both": all passes. "re-estimated": a pass over the training images. For a method
    without an unperturbed pass it comes before the last evaluation. For a base optimizer whose average of the weights
    is evaluated it comes before every evaluation.
    """
    reestimates = METHODS[config.optimizer.name].cls.perturbs_first or BASES[config.optimizer.base.name].averages
    return "re-estimated" if reestimates else config.optimizer.batchnorm


def check_shares(config: Config) -> None:
    """Check that every batch divides evenly across processes.

    Raises:
        ConfigError: a batch does not divide evenly, a process's share of it is smaller than m, or there are several
            processes and `trainer.freeze` is set.
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
            f"trainer.freeze={list(config.trainer.freeze)} freezes parameters during the run, which "
            f"DistributedDataParallel does not allow, and there are {count} processes: use one process, or leave out "
            "trainer.freeze"
        )

    if (config.optimizer.m or 0) > size // count:
        raise ConfigError(
            f"optimizer.m={config.optimizer.m} is more than the {size // count} examples that a process has of each "
            "batch: lower it, or leave it out to let all of them share a perturbation"
        )


def _examples_per_perturbation(config: Config) -> int | None:
    """Return the number of examples that share a perturbation; None for a method without a second pass."""
    optimizer = config.optimizer
    size = config.trainer.batch_size
    if not METHODS[optimizer.name].two_passes:
        return None
    return size if optimizer.sync_perturbation else optimizer.m or size // world_size()


def _identity(config: Config, hardware: Hardware, engine: str, m: int | None, batchnorm: str) -> dict[str, Any]:
    """Return everything that decides a run's result: the settings that can change it, and what they resolve to."""
    identity = config.identity()
    optimizer = identity["optimizer"]
    trainer = identity["trainer"]

    if m is not None:
        optimizer["m"] = m
        optimizer["sync_perturbation"] &= world_size() > 1  # with one process it changes nothing
    optimizer["batchnorm"] = batchnorm
    if package := METHODS[config.optimizer.name].package:
        optimizer["package"] = package
    if config.averaging.name in ("swa", "ema"):
        # Running statistics are re-estimated with each batch weighted by its size.
        identity["averaging"]["estimation"] = "weighted"

    trainer |= {"device": hardware.device.type, "precision": hardware.precision}
    if engine != "eager":
        trainer["compiled"] = True  # for "graph" too: a captured step gives the same bits as a compiled one
    if config.trainer.deterministic and hardware.device.type == "cuda":
        trainer["deterministic"] = True
    if world_size() > 1:
        trainer["processes"] = world_size()
    return identity | {"protocol": PROTOCOL}


def digest(identity: dict[str, Any]) -> str:
    """Return the hash of an identity that is part of the run's name: 10 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
