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
        self.stride = stride
        self.missing = outputs - inputs

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


def grouped_bottleneck(inputs: int, inner: int, outputs: int, stride: int, groups: int) -> nn.Sequential:
    """1×1, grouped 3×3, 1×1 (Xie et al., 2017, arXiv:1611.05431, figure 3c)."""
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
        blocks: for each stage, how many blocks it has.
        branch: `branch(inputs, outputs, stride)` makes a block's residual branch.
        shortcut: what stands in for the identity where the shape changes.
    """

    def __init__(self, stem: int, stages, blocks, branch, shortcut: type[nn.Module], classes: int):
        super().__init__()
        self.stem = conv_bn(3, stem, 3)
        channels = stem
        layers = []
        for stage, outputs in enumerate(stages):
            for block in range(blocks[stage]):
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


def cifar_resnet(depth: int, classes: int) -> ResidualNetwork:
    """Return ResNet-depth of the CIFAR-10 experiments in He et al. (2016, arXiv:1512.03385, section 4.2): 6n + 2."""
    blocks = ((depth - 2) // 6,) * 3
    return ResidualNetwork(16, (16, 32, 64), blocks, basic_branch, PaddedShortcut, classes)


def imagenet_resnet(depth: int, classes: int) -> ResidualNetwork:
    """Return ResNet-18 or 34 (He et al., 2016, arXiv:1512.03385, table 1) as is usual on 32×32 images.

    It has a 3×3 stem and no pooling.
    """
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    return ResidualNetwork(64, (64, 128, 256, 512), blocks, basic_branch, ProjectedShortcut, classes)


def resnext(depth: int, groups: int, group_width: int, classes: int) -> ResidualNetwork:
    """Return ResNeXt-depth, groups × group_width (Xie et al., 2017, arXiv:1611.05431, section 5.3): 9n + 2."""
    blocks = ((depth - 2) // 9,) * 3

    def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        inner = groups * group_width * outputs // 256
        return grouped_bottleneck(inputs, inner, outputs, stride, groups)

    return ResidualNetwork(64, (256, 512, 1024), blocks, branch, ProjectedShortcut, classes)
