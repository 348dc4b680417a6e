"""The task of the framework examples: a small network, batches in parts, and a plain loop to compare weights with.

Training uses mixed precision, accumulation, clipping and a schedule that changes with every step. Halfway, each example
saves a checkpoint and continues from it with new objects.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from sam_bench import GSAM, SAM, SharpnessAware
from sam_bench.data import synthetic
from sam_bench.models.registry import model as build_model

METHODS = {"SAM": SAM, "GSAM": GSAM}
EPOCHS, PARTS, PART, IMAGES = 2, 2, 20, 240  # a batch has PARTS parts of PART images each


def dataset() -> TensorDataset:
    images, _ = synthetic.load()
    return TensorDataset(images.pixels[:IMAGES].float() / 255, images.labels[:IMAGES])


def parts_of(rank: int, shares: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the share of one process of each batch, as a list of parts: images and labels.

    Args:
        shares: number of processes that a batch is divided among.
    """
    for batch in DataLoader(dataset(), shares * PARTS * PART):
        share = (tensor.chunk(shares)[rank].split(PART) for tensor in batch)
        yield list(zip(*share, strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet", classes=10, depth=8)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).float(), y)


def optimizer_for(name: str, model: nn.Module) -> SharpnessAware:
    return METHODS[name](
        model.parameters(), torch.optim.SGD, rho=0.05, model=model, clip_norm=1.0, lr=0.1, momentum=0.9
    )


def schedule_for(optimizer: torch.optim.Optimizer, batch: int = PARTS * PART) -> CosineAnnealingLR:
    return CosineAnnealingLR(optimizer, EPOCHS * IMAGES // batch)


def closure_for(model: nn.Module, optimizer: SharpnessAware, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Return a closure that accumulates the gradient of the mean loss, part by part."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        for part, labels in zip(x.split(PART), y.split(PART), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, part, labels) * len(part) / len(x)
            loss.backward()
        return loss

    return closure


def plain_loop(name: str, batch: int, shares: int) -> nn.Module:
    """Return the network that a loop without a framework trains, without a checkpoint in between.

    Each share of a batch has its own perturbation.
    """
    model = network()
    optimizer = optimizer_for(name, model)
    schedule = schedule_for(optimizer, batch)
    for _ in range(EPOCHS):
        for x, y in DataLoader(dataset(), batch):
            chunks = zip(x.chunk(shares), y.chunk(shares), strict=True)
            optimizer.step([closure_for(model, optimizer, *chunk) for chunk in chunks])
            schedule.step()
    return model


def compare(trained: Callable[[str], nn.Module], batch: int = PARTS * PART, shares: int = 1) -> None:
    """Print the greatest difference between the framework's weights and the plain loop's.

    In a single process, BatchNorm's running statistics are compared as well.

    Args:
        trained: function that trains with the framework, given the name of a method, and returns the network.
        batch: number of images of a batch.
        shares: number of shares of a batch that are perturbed separately.
    """
    is_distributed = dist.is_initialized()
    for name in METHODS:
        framework_model, plain_model = trained(name), plain_loop(name, batch, shares)
        pairs = list(zip(framework_model.parameters(), plain_model.parameters(), strict=True))
        if not is_distributed:
            pairs += zip(framework_model.buffers(), plain_model.buffers(), strict=True)
        difference = max((a - b).abs().max().item() for a, b in pairs)
        if not is_distributed or dist.get_rank() == 0:
            print(f"{name}: greatest difference to the plain loop {difference:g}")
