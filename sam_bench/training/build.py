"""Construction of a run's parts: data, network, optimizer, and the training that joins them."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam_bench.analysis.measure import FixedImages, Probe
from sam_bench.config.data import DataConfig
from sam_bench.config.optimizer import BaseConfig
from sam_bench.config.schema import Config
from sam_bench.data.augment import Augment, Box
from sam_bench.data.batches import Batches, generator_for
from sam_bench.data.human_labels import HumanLabels
from sam_bench.data.images import Dataset, Images, balanced, digest, divide
from sam_bench.data.label_noise import LabelNoise
from sam_bench.data.registry import DatasetSpec
from sam_bench.errors import ConfigError
from sam_bench.lookup import load, suggestion
from sam_bench.models.airbench import WHITENING_IMAGES, Airbench
from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import BASES, METHODS, constructor_parameters, method
from sam_bench.optim.sharpness_aware import SharpnessAware
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes, in_parallel
from sam_bench.training.loop import Training

#: Normalisation layers, to whose biases `optimizer.base.norm_bias_lr_factor` applies.
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def load_data(config: DataConfig) -> Dataset:
    """Return the images of a run, verified, after obtaining them if they are missing.

    Raises:
        DataError: the data cannot be obtained, or are not what they should be.
    """
    folder = obtain_data(config)
    arguments = config.spec, config.split, config.train_subset, config.subset_seed, _noise(config)
    return _divide_cached(folder, Path.cwd(), *arguments) if folder is not None else _divide(None, *arguments)


def verify_data(config: DataConfig) -> None:
    """Check that the files of a data set can be obtained and are what they should be; a generated one has no files.

    Raises:
        DataError: the files cannot be obtained, or are not what they should be.
    """
    if config.spec.files is not None:
        load_data(config)


def obtain_data(config: DataConfig) -> Path | None:
    """Return the folder of a data set's files, after obtaining them if they are missing.

    Returns:
        The folder; None for a generated data set, which has no files.

    Raises:
        DataError: the files cannot be obtained, or the file of people's labels is missing.
    """
    if config.spec.files is None:
        return None

    if (labels := human_labels(config)) is not None:
        labels.check_presence()  # before the images are downloaded in vain
    files = load(config.spec.files)

    def tell(text: str, ready: int) -> None:
        print(f"{text}: {ready} of {len(files.digests)} files", flush=True)

    return files.obtain(config.folder, config.timeout, tell)


@functools.lru_cache(maxsize=1)
def _divide_cached(folder: Path, base: Path, *arguments: Any) -> Dataset:
    """Return the images of a run, and keep the latest ones in memory, so that they are read and hashed only once.

    Args:
        base: the folder that `folder` is relative to, which makes it part of the cache's key.
    """
    return _divide(folder, *arguments)


def _divide(
    folder: Path | None,
    spec: DatasetSpec,
    split: str,
    train_subset: int | None,
    subset_seed: int | None,
    noise: LabelNoise | HumanLabels | None,
) -> Dataset:
    """Return the images of a run: load the data set, change labels, and take the split and the subset."""
    train, test = load(spec.loader)(folder)
    if noise is not None:
        train = noise.apply(train, spec.classes)
    return divide(spec, train, test, split, train_subset, subset_seed)


def human_labels(config: DataConfig) -> HumanLabels | None:
    """Return the labels that people gave; None if the run uses the data set's own."""
    return None if config.labels == "clean" else HumanLabels(config.labels, config.folder)


def _noise(config: DataConfig) -> LabelNoise | HumanLabels | None:
    """Return the run's change of labels: wrong labels drawn at random, labels that people gave, or None."""
    if config.label_noise:
        return LabelNoise(config.label_noise, config.noise_over, config.noise_seed)
    return human_labels(config)


def prepare(config: Config, dataset: Dataset, hardware: Hardware, engine: str, processes: Processes) -> Training:
    """Return the training of a run before its first step: network, optimizer and batches, on the device.

    Args:
        engine: how steps are taken: "eager", "compile" or "graph".
    """
    data = config.data
    trainer = config.trainer

    # All processes draw the same initial weights, and then each draws its own dropout masks.
    torch.manual_seed(generator_for(config.seed, "weights").initial_seed())
    model = build_network(config)
    _set_from_images(model, data, dataset.train)
    model = model.to(hardware.device, memory_format=torch.channels_last)
    parallel = model
    if processes.world_size > 1:
        parallel = in_parallel(model)
        torch.manual_seed(generator_for(config.seed, "dropout", processes.rank).initial_seed())
    optimizer = build_optimizer(config, parallel)

    augment = _augment(data, hardware.device)
    train, test = (
        Batches(
            images.to(hardware.device),
            augment,
            trainer.batch_size,
            config.seed,
            (processes.rank, processes.world_size),
            not trainer.drop_last,
            data.mixup,
        )
        for images in (dataset.train, dataset.test)
    )

    probe = None
    if not config.analysis.is_off:
        probe = Probe(config.analysis, fixed_images(data, dataset.train, config.analysis.images, hardware))
    return Training(config, model, optimizer, train, test, hardware, engine, processes, parallel, probe=probe)


def fixed_images(data: DataConfig, train: Images, count: int, hardware: Hardware) -> FixedImages:
    """Return the training images on which the loss around weights is measured, the same for all runs on these data.

    Args:
        count: number of images, equally many of each class.
    """
    chosen, _ = balanced(train, count, data.spec.classes)
    batches = Batches(chosen.to(hardware.device), _augment(data, hardware.device), count, seed=0)
    ((inputs, labels),) = batches.plain(count)
    return FixedImages(inputs, labels, digest(chosen))


def _augment(data: DataConfig, device: torch.device) -> Augment:
    """Return the normalisation and augmentation of a run's images, on a device."""
    normalise = (data.spec.mean, data.spec.std) if data.normalise else None
    return Augment(
        data.crop,
        data.flip,
        normalise,
        data.cutout,
        device,
        data.padding,
        data.padding_pixels,
        Box(data.cutout_size, data.cutout_probability, data.cutout_inside),
        data.alternate_flips,
    )


def _set_from_images(model: torch.nn.Module, data: DataConfig, train: Images) -> None:
    """Set the weights that a network derives from training images; only Airbench has any."""
    if isinstance(model, Airbench):
        augment = _augment(data, torch.device("cpu"))
        model.set_from_images(augment.evaluate(augment.prepare(train.pixels[:WHITENING_IMAGES])))


def build_network(config: Config) -> torch.nn.Module:
    """Return the configured network, its initial weights drawn from torch's global generator.

    Raises:
        ConfigError: the network cannot be built, or `trainer.freeze` names something that it does not train.
    """
    model = build_model(config.model.family, config.data.spec.classes, **config.model.options())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for name in config.trainer.freeze or ():
        if name not in trained:
            raise ConfigError(
                f"trainer.freeze has {name}, which is no trained parameter of {config.model.title}"
                f"{suggestion(name, trained)}"
            )
    return model


def build_optimizer(config: Config, model: torch.nn.Module) -> SharpnessAware:
    """Return the configured method on the configured base optimizer, over all parameters.

    Raises:
        ConfigError: the base optimizer's package is not installed, or the base or the method cannot train this network
            with these settings.
    """
    options = config.optimizer
    entry = BASES[config.optimizer.base.name]
    device = next(model.parameters()).device.type  # "meta" while a run is only checked
    implementation = {"fused": True} if device in entry.fused else {}
    implementation |= {"capturable": True} if entry.capturable and device == "cuda" else {}
    parameters = parameter_groups(model, options.base)
    try:
        base = load(entry.implementation)(parameters, **implementation, **options.base.options())
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"optimizer/base={options.base.name} needs the package {error.name}, which is not installed: "
            f"pip install -e '.[{entry.extra}]'"
        ) from error
    except ValueError as error:
        raise ConfigError(f"optimizer/base={options.base.name} with model={config.model.title}: {error}") from error

    # What the method's constructor is given beside its own settings.
    arguments = {"model": model, "batchnorm": options.batchnorm, "clip_norm": options.clip_norm, **options.options()}
    if METHODS[options.name].perturbs:
        arguments["rho"] = options.rho
    if METHODS[options.name].two_passes:
        arguments["sync_perturbation"] = options.sync_perturbation
        # Rounding must not leave a short run without any step with a second pass.
        arguments["start"] = min(round(options.start_at * config.steps), config.steps - 1)

    # What it takes of the run.
    cls = method(options.name)
    parameters = constructor_parameters(cls)
    if "seed" in parameters:
        arguments["seed"] = config.seed
    if "total_steps" in parameters:
        arguments["total_steps"] = config.steps
    if "examples" in arguments and arguments["examples"] is None:
        arguments["examples"] = config.data.train_images

    try:
        return cls(model.parameters(), base, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer={options.name} with model={config.model.title}: {error}") from error


def parameter_groups(model: torch.nn.Module, base: BaseConfig) -> list[Any]:
    """Return the parameters for the base optimizer: named ones, or two groups of them.

    If `norm_bias_lr_factor` is not 1, the biases of normalisation layers are a group of their own. Its learning rate is
    multiplied by the factor and its weight decay divided by it; `lr_factor` keeps the factor for the schedule. The
    method's radius is the same for both groups.

    Raises:
        ConfigError: the factor is not 1, and the network has no normalisation layer with a bias.
    """
    named = list(model.named_parameters())
    factor = base.norm_bias_lr_factor
    if factor == 1:
        return named

    biases = {
        module.bias for module in model.modules() if isinstance(module, NORMALISATION) and module.bias is not None
    }
    if not biases:
        raise ConfigError(
            f"optimizer.base.norm_bias_lr_factor={factor} is for biases of normalisation layers, and this network has "
            "none: set it to 1"
        )

    of_biases = {"lr": factor * base.lr, "weight_decay": base.weight_decay / factor, "lr_factor": factor}
    return [
        {"params": [(name, p) for name, p in named if p not in biases]},
        {"params": [(name, p) for name, p in named if p in biases], **of_biases},
    ]
