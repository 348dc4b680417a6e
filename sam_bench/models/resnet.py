"""Residual networks for 32×32 images: CIFAR ResNets, ResNet-18 with a CIFAR stem, ResNeXt-29."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench.models.batchnorm import BatchNorm2d


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias, followed by batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(outputs))


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every `stride`-th pixel, with zero channels appended (He et al., option A).

    All zero channels come after the others. Implementations that put half of them first compute the same functions
    with channels in another order: reorder their weights before loading them here.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.missing = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


class ProjectedShortcut(nn.Sequential):
    """A shortcut of a 1×1 convolution and batch normalisation (He et al., option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(*conv_bn(inputs, outputs, 1, stride))


class Residual(nn.Module):
    """A residual block, `relu(shortcut(x) + branch(x))`; the shortcut is the identity if the shape stays the same."""

    def __init__(self, branch: nn.Module, shortcut: type[nn.Module], inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = branch
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = shortcut(inputs, outputs, stride) if reshapes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


def basic_branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the branch of a basic residual block: two 3×3 convolutions."""
    return nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs, 3))


def grouped_bottleneck(inputs: int, inner: int, outputs: int, stride: int, groups: int) -> nn.Sequential:
    """Return the branch of a ResNeXt block: 1×1, grouped 3×3, 1×1 (Xie et al., 2017, arXiv:1611.05431, figure 3c)."""
    return nn.Sequential(
        conv_bn(inputs, inner, 1),
        nn.ReLU(),
        conv_bn(inner, inner, 3, stride, groups),
        nn.ReLU(),
        conv_bn(inner, outputs, 1),
    )


class ResidualNetwork(nn.Module):
    """A network of a 3×3 stem, stages of residual blocks and a classifier.

    The first stage has full resolution; each further one halves it.

    Args:
        stem: channels of the stem.
        stages: output channels of each stage's blocks.
        blocks: number of blocks of each stage.
        branch: `branch(inputs, outputs, stride)` makes a block's residual branch.
        shortcut: class of the shortcut where the shape changes.
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
    """Return a ResNet for CIFAR (He et al., 2016, arXiv:1512.03385, section 4.2); its depth must be 6n + 2."""
    blocks = ((depth - 2) // 6,) * 3
    return ResidualNetwork(16, (16, 32, 64), blocks, basic_branch, PaddedShortcut, classes)


def imagenet_resnet(depth: int, classes: int) -> ResidualNetwork:
    """Return ResNet-18 or ResNet-34 for 32×32 images (He et al., 2016, arXiv:1512.03385, table 1).

    As usual at this size, it has a 3×3 stem and no max pooling.
    """
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    return ResidualNetwork(64, (64, 128, 256, 512), blocks, basic_branch, ProjectedShortcut, classes)


def resnext(depth: int, groups: int, group_width: int, classes: int) -> ResidualNetwork:
    """Return a ResNeXt for CIFAR (Xie et al., 2017, arXiv:1611.05431, section 5.3); its depth must be 9n + 2."""
    blocks = ((depth - 2) // 9,) * 3

    def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        inner = groups * group_width * outputs // 256
        return grouped_bottleneck(inputs, inner, outputs, stride, groups)

    return ResidualNetwork(64, (256, 512, 1024), blocks, branch, ProjectedShortcut, classes)
