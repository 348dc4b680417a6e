"""A tiny network in float64 with everything that needs care, its images, and its dense Hessian."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_bench.analysis.objective import Objective

IMAGES, CLASSES, BATCH = 40, 3, 20


def network() -> nn.Module:
    """Convolution, batch normalisation with running statistics of its own, dropout, a parameter that is frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(4, CLASSES),
        ).double()  # fmt: skip
        layers[1].running_mean.normal_()
        layers[1].running_var.uniform_(0.5, 2)
        nn.init.normal_(layers[1].bias)
        layers[0].bias.requires_grad_(False)
    return layers


def examples() -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(IMAGES, 3, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, CLASSES, (IMAGES,), generator=generator)


def objective(batchnorm: str = "stored") -> Objective:
    return Objective(network(), *examples(), BATCH, batchnorm)


def plain_loss(w: Tensor, batchnorm: str = "stored", only: int | None = None) -> Tensor:
    """L(w), a plain function of one vector, that shares no code with ours.

    Args:
        only: the half of the images that it is of; else of both.
    """
    model = network().eval()
    if batchnorm == "batch":
        model[1].train()
    parameters, start = {}, 0
    for name, p in model.named_parameters():
        if p.requires_grad:
            parameters[name] = w[start : start + p.numel()].reshape(p.shape)
            start += p.numel()
    x, y = examples()
    halves = zip(x.split(BATCH), y.split(BATCH), strict=True)
    losses = torch.stack([F.cross_entropy(functional_call(model, parameters, a), b) for a, b in halves])
    return losses.mean() if only is None else losses[only]


def dense_hessian(w: Tensor, batchnorm: str = "stored") -> Tensor:
    return torch.autograd.functional.hessian(lambda at: plain_loss(at, batchnorm), w)
