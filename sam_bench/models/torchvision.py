"""The classifiers of torchvision, for 32×32 images."""

import copy

import torch
from torch import nn

from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup


def build(arch: str, classes: int) -> nn.Module:
    """Return `torchvision.models.<arch>`, untrained.

    Raises:
        ImportError: torchvision cannot be imported.
        ConfigError: torchvision has no classifier of this name, or it does not return one logit per class for 32×32
            images.
    """
    # Imported here, because the import fails if torchvision was built for another torch.
    import torchvision

    known = {name: name for name in torchvision.models.list_models(module=torchvision.models)}
    network = torchvision.models.get_model(lookup(known, arch, "model.arch"), weights=None, num_classes=classes)

    # On the meta device this forward pass computes shapes only.
    try:
        logits = copy.deepcopy(network).to("meta")(torch.empty(2, 3, 32, 32, device="meta"))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model.arch={arch} cannot work on 32×32 images: {reason}") from error
    if getattr(logits, "shape", None) != (2, classes):
        raise ConfigError(f"model.arch={arch} does not return {classes} logits in training; choose a plain classifier")
    return network
