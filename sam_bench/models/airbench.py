"""The networks of airbench94 and airbench96 (Jordan, 2024, arXiv:2404.00498)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench.models.batchnorm import BatchNorm2d

#: Rows and columns of the patches that the first layer whitens.
PATCH = 2

#: The number of training images from which the first layer is computed.
WHITENING_IMAGES = 5_000

#: Added to each eigenvalue, so that directions in which patches hardly differ are not amplified.
_EPSILON = 5e-4

_LOGIT_SCALE = 1 / 9


@dataclass(frozen=True)
class Plan:
    """The settings in which the two networks differ."""

    widths: tuple[int, int, int]
    convolutions: int
    residual: bool
    batchnorm_momentum: float


#: By accuracy on CIFAR-10 in percent, after which the networks are named.
PLANS = {
    94: Plan(widths=(64, 256, 256), convolutions=2, residual=False, batchnorm_momentum=0.4),
    96: Plan(widths=(128, 384, 512), convolutions=3, residual=True, batchnorm_momentum=0.1),
}


class BiasedBatchNorm2d(BatchNorm2d):
    """Batch normalisation with a learnt bias and a constant scale of 1."""

    def __init__(self, channels: int, momentum: float):
        super().__init__(channels, eps=1e-12, momentum=momentum, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))

        # The scale is a buffer of ones, not None, because cuDNN's kernel needs both scale and bias, or neither.
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)


class AirbenchBlock(nn.Module):
    """Convolution, pooling, BN and GELU; then convolutions of the same width, each with BN and GELU.

    With a residual connection the output of the first GELU is added before the last one.
    """

    def __init__(self, inputs: int, outputs: int, plan: Plan):
        super().__init__()
        self.residual = plan.residual
        self.conv1 = _make_convolution(inputs, outputs)
        self.norm1 = BiasedBatchNorm2d(outputs, plan.batchnorm_momentum)
        self.convs = nn.ModuleList(_make_convolution(outputs, outputs) for _ in range(plan.convolutions - 1))
        self.norms = nn.ModuleList(BiasedBatchNorm2d(outputs, plan.batchnorm_momentum) for _ in self.convs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))

        # The last layer is not in the loop, because its GELU comes after the sum.
        for convolution, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = F.gelu(norm(convolution(x)))
        x = self.norms[-1](self.convs[-1](x))

        return F.gelu(x + pooled if self.residual else x)


class Airbench(nn.Module):
    """A fixed whitening layer, three blocks and a linear classifier without bias, for 32×32 images.

    The first layer's filters are computed from training images by `set_from_images` and never trained; its bias is
    trained. Each 3×3 convolution starts as the identity on its first channels (`dirac`), with torch's default
    initialisation of the other filters.

    Args:
        accuracy: 94 or 96, which selects one of the two networks.

    Example:
        >>> network = Airbench(accuracy=94, classes=10)
        >>> network.set_from_images(torch.randn(100, 3, 32, 32))
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, accuracy: int, classes: int):
        super().__init__()
        plan = PLANS[accuracy]
        channels = 2 * 3 * PATCH**2  # each eigenvector of a patch's covariance, and its negative

        self.whitening = nn.Conv2d(3, channels, PATCH)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.bias)

        blocks = []
        for width in plan.widths:
            blocks.append(AirbenchBlock(channels, width, plan))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes, bias=False)

    @torch.no_grad()
    def set_from_images(self, images: Tensor) -> None:
        """Set the first layer to the whitening filters of the first 5,000 images.

        Args:
            images: normalised training images, N × 3 × 32 × 32, in the order of the training set.
        """
        self.whitening.weight.copy_(whitening_filters(images[:WHITENING_IMAGES]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.whitening(x)))
        return self.classifier(F.max_pool2d(x, 3).flatten(1)) * _LOGIT_SCALE


def whitening_filters(images: Tensor) -> Tensor:
    """Return filters that whiten 2×2 patches of images, and their negatives: 24 × 3 × 2 × 2, in float64.

    A filter is an eigenvector of the patches' second moments, divided by sqrt(eigenvalue + 5e-4). Filters are in
    descending order of eigenvalues. The patches' mean is not subtracted. The entry of an eigenvector with the largest
    absolute value is positive, so that all machines get the same filters. Their negatives come last.

    Args:
        images: N × 3 × H × W.
    """
    size = 3 * PATCH**2
    moments = torch.zeros(size, size, dtype=torch.float64)
    patches = 0

    # All patches of 5,000 images at once would take half a gigabyte.
    for part in images.double().split(500):
        columns = F.unfold(part, PATCH).transpose(0, 1).reshape(size, -1)
        moments += columns @ columns.T
        patches += columns.shape[1]

    eigenvalues, eigenvectors = torch.linalg.eigh(moments / patches)
    vectors = eigenvectors.T.flip(0)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    scaled = vectors * largest.sign() / torch.sqrt(eigenvalues.flip(0) + _EPSILON)[:, None]
    return torch.cat((scaled, -scaled)).reshape(2 * size, 3, PATCH, PATCH)


def _make_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3×3 convolution without bias whose first `inputs` filters are the identity."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:inputs])
    return convolution
