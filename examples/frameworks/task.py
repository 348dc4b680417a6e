"""What the examples share: a small network, batches in parts, and the plain loop that their weights are compared with.

Mixed precision, accumulation, clipping and a schedule by the step; half way each example saves a checkpoint, and goes
on from it with new objects.
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
EPOCHS, PARTS, PART, IMAGES = 2, 2, 20, 240
"""A batch is PARTS times PART images."""


def dataset() -> TensorDataset:
    images, _ = synthetic.load()
    return TensorDataset(images.pixels[:IMAGES].float() / 255, images.labels[:IMAGES])


def parts_of(rank: int, shares: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Of each batch, which `shares` processes have, the parts of one of them: images and labels."""
    for batch in DataLoader(dataset(), shares * PARTS * PART):
        own = (both.chunk(shares)[rank].split(PART) for both in batch)
        yield list(zip(*own, strict=True))


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
    """Gradients of the mean over all parts, added up one after the other."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        for part, labels in zip(x.split(PART), y.split(PART), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, part, labels) * len(part) / len(x)
            loss.backward()
        return loss

    return closure


def plain_loop(name: str, batch: int, shares: int) -> nn.Module:
    """The network as a loop without a framework trains it, in one go; each share of a batch is perturbed by itself."""
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
    """Print how far a framework's weights are from the plain loop's; in one process its running statistics, too."""
    several = dist.is_initialized()
    for name in METHODS:
        ours, plain = trained(name), plain_loop(name, batch, shares)
        pairs = list(zip(ours.parameters(), plain.parameters(), strict=True))
        if not several:
            pairs += zip(ours.buffers(), plain.buffers(), strict=True)
        difference = max((a - b).abs().max().item() for a, b in pairs)
        if not several or dist.get_rank() == 0:
            print(f"{name}: greatest difference to the plain loop {difference:g}")
