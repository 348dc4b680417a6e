"""Deep pyramidal residual networks with additive widening (Han, Kim & Kim, 2017, arXiv:1610.02915)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench.models.batchnorm import BatchNorm2d


class PyramidBlock(nn.Module):
    """A residual block with BN before every convolution and at the end, and no ReLU before the first convolution.

    The shortcut is average pooling, with zero channels appended.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        else:
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]

        layers: list[nn.Module] = []
        for position, (channels, outputs, kernel, step) in enumerate(shapes):
            layers.append(BatchNorm2d(channels))
            if position:
                layers.append(nn.ReLU())
            layers.append(nn.Conv2d(channels, outputs, kernel, step, padding=kernel // 2, bias=False))

        self.branch = nn.Sequential(*layers, BatchNorm2d(self.outputs))
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.missing = self.outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.pool(x), (0, 0, 0, 0, 0, self.missing)) + self.branch(x)


class PyramidNet(nn.Module):
    """A PyramidNet with widening factor `alpha`: each block has `alpha / (3 * blocks)` channels more than the last.

    Args:
        blocks: the number of blocks in each of the three stages.
    """

    def __init__(self, blocks: int, alpha: int, bottleneck: bool, classes: int):
        super().__init__()
        channels = 16
        width = 16.0
        layers = []
        for stage in range(3):
            for position in range(blocks):
                width += alpha / (3 * blocks)
                stride = 2 if stage and not position else 1
                layers.append(PyramidBlock(channels, round(width), stride, bottleneck))
                channels = layers[-1].outputs

        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), BatchNorm2d(16))
        self.blocks = nn.Sequential(*layers)
        self.bn = BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.classifier(torch.mean(x, dim=(2, 3)))


def basic_pyramidnet(depth: int, alpha: int, classes: int) -> PyramidNet:
    """Return a PyramidNet of basic blocks; its depth must be 6n + 2."""
    return PyramidNet((depth - 2) // 6, alpha, False, classes)


def bottleneck_pyramidnet(depth: int, alpha: int, classes: int) -> PyramidNet:
    """Return a PyramidNet of bottleneck blocks; its depth must be 9n + 2."""
    return PyramidNet((depth - 2) // 9, alpha, True, classes)
