"""Finished runs to analyse: the network with its last weights, and the training images to measure it on."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_bench.analysis.measure import FixedImages
from sam_bench.config.analysis import AnalysisConfig
from sam_bench.config.data import DataConfig
from sam_bench.config.model import ModelConfig
from sam_bench.errors import ConfigError, StateError
from sam_bench.models.registry import member
from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import BASES
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runs.record import Record
from sam_bench.runtime.device import Hardware
from sam_bench.training.build import fixed_images, load_data

#: A network's `state_dict`.
Weights = dict[str, Tensor]


def checkpoint_weights(record: Record, folder: Path) -> Weights | None:
    """Return the weights in a run's last checkpoint; None if there is no checkpoint.

    Args:
        folder: the run's own folder, such as `runs/noisy40/sam-resnet8-seed0-…`.

    Raises:
        StateError: no checkpoint can be used, or the last one is not from the end of the run that the record is of.
    """
    state = Checkpoints(folder, record["run_id"], print).load()
    if state is None:
        return None
    training = state["training"]
    if training["epoch"] != record["epochs"] or training["history"]["test_error"] != record["history"]["test_error"]:
        raise StateError(f"the last checkpoint in {folder} is not from the end of the recorded run")
    weights: Weights = training["model"]
    return weights


def check_analysable(record: Record) -> None:
    """Check that a run's last weights are the ones whose error it recorded.

    Raises:
        StateError: the run diverged, or its base optimizer keeps an average of the weights, which was evaluated.
    """
    if record["status"] != "finished":
        raise StateError(f"{record['run_id']} diverged: it has no solution to analyse")
    base = record["config"]["optimizer"]["base"]["name"]
    if BASES[base].averages:
        raise StateError(f"{record['run_id']}: {base} evaluates an average of the weights, which no checkpoint holds")


def same(a: Weights, b: Weights) -> bool:
    """Return True if two networks' states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kept_weights(record: Record, results: Path, runs: Path) -> Weights:
    """Return a run's last weights, from the file that the command weights wrote, or from its last checkpoint.

    Args:
        results, runs: the experiment's two folders.

    Raises:
        StateError: the weights are in neither place, differ between the two, or a file cannot be used.
    """
    path = results / "weights" / f"{record['run_id']}.pt"
    from_checkpoint = checkpoint_weights(record, runs / record["run_id"])
    if path.exists():
        try:
            weights: Weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a file without tensors can fail in any way
            raise StateError(f"{path} holds no weights ({type(error).__name__})") from error
        if from_checkpoint is not None and not same(weights, from_checkpoint):
            raise StateError(f"{path} has other weights than the run's last checkpoint: move it away")
        return weights

    if from_checkpoint is None:
        raise StateError(
            f"{record['run_id']} has its weights neither in {path} nor in {runs / record['run_id']}: run it again, "
            "with trainer.rerun=true"
        )
    return from_checkpoint


def network_of(record: Record, weights: Weights, classes: int) -> nn.Module:
    """Return a run's network, on the CPU, with these weights.

    Raises:
        StateError: the weights do not fit the run's network, or it cannot be built.
    """
    settings = dict(record["config"]["model"])
    try:
        family, options = member(settings.pop("name"))
        config = ModelConfig.build({"family": family, **options, **settings})
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced at once
            network = build_model(config.family, classes, **config.options())
        network.load_state_dict(weights)
    except (ConfigError, RuntimeError) as error:
        raise StateError(f"{record['run_id']}: the weights do not fit its network: {error}") from error
    return network.to(memory_format=torch.channels_last)


def images_of(record: Record, defaults: DataConfig, analysis: AnalysisConfig, hardware: Hardware) -> FixedImages:
    """Return the training images of a run on which the loss around its weights is measured.

    Args:
        defaults: settings of the run's data set, which say where its files are; the record's settings override them.
        analysis: settings that say how many images.

    Raises:
        DataError: the data are missing, or not what they should be.
        StateError: the data are not the ones that the run was trained on.
        ConfigError: the training set has fewer images, or they do not divide evenly among the classes.
    """
    data = DataConfig.build(dict(defaults) | record["config"]["data"])
    dataset = load_data(data)
    if dataset.sha256 != record["dataset_sha256"]:
        raise StateError(f"{record['run_id']} was trained on other data than {data.name} on this machine")
    analysis.check_images(data.spec.classes, len(dataset.train))
    return fixed_images(data, dataset.train, analysis.images, hardware)


def digest_of(weights: Weights) -> str:
    """Return the SHA-256 of a network's names and tensors, which does not depend on the file that they are in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().cpu().numpy())
    return digest.hexdigest()
