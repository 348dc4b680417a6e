"""Residual networks for 32×32 images: CIFAR ResNets, ResNet-18 with a CIFAR stem, ResNeXt-29."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench.models.batchnorm import BatchNorm2d


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(outputs))


class PaddedShortcut(nn.Module):
    """Every second pixel, with zero channels appended: a shortcut without parameters (He et al., option A).

    All zero channels come behind the others. Implementations that put half of them in front compute the same functions
    with channels in another order: their weights must be reordered before they are loaded here.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


class ProjectedShortcut(nn.Sequential):
    """A 1×1 convolution and batch normalisation (He et al., option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(*conv_bn(inputs, outputs, 1, stride))


class Residual(nn.Module):
    """`relu(shortcut(x) + branch(x))`, the shortcut being the identity where the shape stays."""

    def __init__(self, branch: nn.Module, shortcut: type[nn.Module], inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = branch
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = shortcut(inputs, outputs, stride) if reshapes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


def basic_branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs, 3))


def grouped_bottleneck(inputs: int, outputs: int, stride: int, groups: int) -> nn.Sequential:
    """1×1, grouped 3×3, 1×1; half as wide inside as outside (Xie et al., 2017, arXiv:1611.05431, figure 3c)."""
    inner = outputs // 2
    return nn.Sequential(
        conv_bn(inputs, inner, 1),
        nn.ReLU(),
        conv_bn(inner, inner, 3, stride, groups),
        nn.ReLU(),
        conv_bn(inner, outputs, 1),
    )


class ResidualNetwork(nn.Module):
    """A 3×3 stem, stages of residual blocks (the first at full resolution, each further one halving it), a classifier.

    Args:
        stem: channels of the stem.
        stages: for each stage, the branches' output channels.
        blocks: blocks in a stage.
        branch: `branch(inputs, outputs, stride)` makes a block's residual branch.
        shortcut: what stands in for the identity where the shape changes.
    """

    def __init__(self, stem: int, stages, blocks: int, branch, shortcut: type[nn.Module], classes: int = 10):
        super().__init__()
        self.stem = conv_bn(3, stem, 3)
        channels, layers = stem, []
        for stage, outputs in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Residual(branch(channels, outputs, stride), shortcut, channels, outputs, stride))
                channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.classifier(torch.mean(x, dim=(2, 3)))


def cifar_resnet(depth: int) -> ResidualNetwork:
    """ResNet-depth of the CIFAR-10 experiments in He et al. (2016, arXiv:1512.03385, section 4.2).

    Raises:
        ValueError: the depth is not 6n + 2.
    """
    if (depth - 2) % 6:
        raise ValueError(f"a CIFAR residual network has a depth of 6n + 2, not {depth}")
    return ResidualNetwork(16, (16, 32, 64), (depth - 2) // 6, basic_branch, PaddedShortcut)


def resnet18() -> ResidualNetwork:
    """ResNet-18 (arXiv:1512.03385, table 1) with a 3×3 stem and no pooling, as is usual on 32×32 images."""
    return ResidualNetwork(64, (64, 128, 256, 512), 2, basic_branch, ProjectedShortcut)


def resnext29(groups: int, group_width: int) -> ResidualNetwork:
    """ResNeXt-29, groups × group_width (Xie et al., 2017, arXiv:1611.05431, section 5.3)."""
    outer = 2 * groups * group_width

    def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return grouped_bottleneck(inputs, outputs, stride, groups)

    return ResidualNetwork(64, (outer, 2 * outer, 4 * outer), 3, branch, ProjectedShortcut)
