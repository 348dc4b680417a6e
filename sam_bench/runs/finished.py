"""A finished run taken up again: its network with the weights after the last step, and the images it trained on."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_bench.analysis.measure import FixedImages
from sam_bench.config.schema import AnalysisConfig, DataConfig, ModelConfig
from sam_bench.errors import ConfigError, StateError
from sam_bench.models.registry import member
from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import BASES
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runs.record import Record
from sam_bench.runtime.device import Hardware
from sam_bench.training.build import fixed_images, load_data

Weights = dict[str, Tensor]
"""A network's `state_dict`."""


def checkpoint_weights(record: Record, folder: Path) -> Weights | None:
    """Return the weights of a run's last checkpoint; None where there is no checkpoint.

    Args:
        folder: the run's own, such as `runs/noisy40/sam-resnet8-seed0-…`.

    Raises:
        StateError: the checkpoint is not of the run's end, or not the one that the record was made of.
    """
    state = Checkpoints(folder, record["run_id"], print).load()
    if state is None:
        return None
    training = state["training"]
    if training["epoch"] != record["epochs"] or training["history"]["test_error"] != record["history"]["test_error"]:
        raise StateError(f"the last checkpoint in {folder} is not of the end of the run that its record is of")
    weights: Weights = training["model"]
    return weights


def check_analysable(record: Record) -> None:
    """Find out whether a run's last weights are those that its error is of.

    Raises:
        StateError: the run diverged, or what was evaluated is an average of the weights that its base optimizer keeps.
    """
    if record["status"] != "finished":
        raise StateError(f"{record['run_id']} diverged: there is no solution")
    base = record["config"]["optimizer"]["base"]["name"]
    if BASES[base].averages:
        raise StateError(f"{record['run_id']}: {base} evaluates an average of the weights, which no checkpoint holds")


def same(a: Weights, b: Weights) -> bool:
    """Return whether two networks' states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kept_weights(record: Record, results: Path, runs: Path) -> Weights:
    """Return a run's last weights, from where `scripts/keep_weights.py` put them, or from its last checkpoint.

    Args:
        results, runs: the experiment's two folders.

    Raises:
        StateError: they are in neither place, or not the same in both, or a file cannot be used.
    """
    path = results / "weights" / f"{record['run_id']}.pt"
    found = checkpoint_weights(record, runs / record["run_id"])
    if path.exists():
        try:
            weights: Weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what holds no tensors can fail in any way
            raise StateError(f"{path} holds no weights ({type(error).__name__})") from error
        if found is not None and not same(weights, found):
            raise StateError(f"{path} has other weights than the run's last checkpoint: move it away")
        return weights
    if found is None:
        raise StateError(
            f"{record['run_id']} has its weights neither in {path} nor in {runs / record['run_id']}: run it again, "
            "with trainer.rerun=true"
        )
    return found


def network_of(record: Record, weights: Weights, classes: int) -> nn.Module:
    """Return a run's network, on the CPU, with these weights.

    Raises:
        StateError: they are not of this network.
    """
    settings = dict(record["config"]["model"])
    try:
        family, options = member(settings.pop("name"))
        config = ModelConfig.build({"family": family, **options, **settings})
        with torch.random.fork_rng(devices=[]):  # of the initial weights, which are not kept
            network = build_model(config.family, classes, **config.options())
        network.load_state_dict(weights)
    except (ConfigError, RuntimeError) as error:
        raise StateError(f"{record['run_id']}: the weights are not of its network: {error}") from error
    return network.to(memory_format=torch.channels_last)


def images_of(record: Record, defaults: DataConfig, analysis: AnalysisConfig, hardware: Hardware) -> FixedImages:
    """Return those of a run's training images on which the loss around its weights is measured.

    Args:
        defaults: settings of the run's data set; they say where its files are, the rest is as the record has it.
        analysis: says how many.

    Raises:
        DataError: the data cannot be had.
        StateError: they are not those of the run.
        ConfigError: there are not as many.
    """
    data = DataConfig.build(dict(defaults) | record["config"]["data"])
    dataset = load_data(data)
    if dataset.sha256 != record["dataset_sha256"]:
        raise StateError(f"{record['run_id']} was made with other data than {data.name} here")
    analysis.check_images(data.spec.classes, len(dataset.train))
    return fixed_images(data, dataset.train, analysis.images, hardware)


def digest_of(weights: Weights) -> str:
    """Return the sha256 of a network's state, whatever file it is in."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].contiguous().cpu().numpy())
    return found.hexdigest()
