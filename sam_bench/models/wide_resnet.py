"""Wide residual networks with pre-activation blocks (Zagoruyko & Komodakis, 2016, arXiv:1605.07146)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench.models.batchnorm import BatchNorm2d


class WideBlock(nn.Module):
    """A residual block of twice BN-ReLU-convolution.

    Where the shape changes, the shortcut is a 1×1 convolution of the activated input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """A wide residual network for 32×32 images, with `(depth − 4) / 6` blocks in each of three stages.

    Convolutions are initialised as Kaiming-normal (fan-in), the classifier as zero, as in the SAM example.
    """

    def __init__(self, depth: int, width: int, classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        channels = 16
        layers = []
        for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks):
                layers.append(WideBlock(channels, outputs, stride=2 if stage and not block else 1))
                channels = outputs

        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*layers)
        self.bn = BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.classifier(torch.mean(x, dim=(2, 3)))
