"""The loss of a network on fixed images as a function of its weights: value, gradient, products with the Hessian.

Letters: L is the loss, w are the weights, d is their number, and v is a vector that is multiplied by the Hessian.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from sam_bench.optim.running_stats import reestimate_statistics

#: The statistics that layers of batch normalisation use. "stored": the running statistics that came with the weights,
#: as in evaluation. "batch": the statistics of each batch, as in training. "reestimated": running statistics that are
#: estimated on the same images at every point; there are values then, but no derivatives.
BatchNormMode = Literal["stored", "batch", "reestimated"]


class Value(NamedTuple):
    """The mean loss of a network on the images, in nats for cross-entropy, and its error in percent."""

    loss: float
    error: float


class Objective:
    """The mean loss L(w) of a network on fixed images, computed in the precision of its parameters.

    All vectors are flat, with d elements, on the parameters' device and of their dtype. d is the number of weights that
    require a gradient, and w holds them in the order of `model.parameters()`. Dropout is off, except while statistics
    are re-estimated. The model itself is not changed, because the objective works on a copy.

    Args:
        images: N × …, the inputs of the model.
        labels: int64, N.
        batch_size: images per pass. With `batchnorm="batch"` the results depend on it; otherwise only the memory does.
        batchnorm: one of `BatchNormMode`.
        criterion: `criterion(outputs, labels)` returns the mean loss of a batch; by default cross-entropy.

    Raises:
        ValueError: there are no images, batch_size is below 1, `batchnorm` is unknown, or the parameters are of several
            dtypes or on several devices.

    Example:
        >>> objective = Objective(model, x, y)
        >>> loss, gradient = objective.gradient(objective.weights)
        >>> product = objective.hessian_product(objective.weights, gradient)
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        batch_size: int = 250,
        batchnorm: BatchNormMode = "stored",
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ):
        if batchnorm not in get_args(BatchNormMode):
            raise ValueError(f"batchnorm={batchnorm!r} must be one of {', '.join(get_args(BatchNormMode))}")
        if not len(labels) or batch_size < 1:
            raise ValueError(f"{len(labels)} images with batch_size={batch_size}: both must be at least 1")

        self.model = copy.deepcopy(model).eval()
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.batchnorm = batchnorm
        self.criterion = criterion
        if batchnorm == "batch":
            for layer in self.model.modules():
                if isinstance(layer, _NormBase):
                    layer.train()

        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        if len({(p.dtype, p.device) for _, p in named}) != 1:
            raise ValueError("the parameters that require a gradient must be of one dtype, on one device")
        self.shapes = {name: p.shape for name, p in named}
        #: The weights that the model had when it was given.
        self.weights = torch.cat([p.detach().reshape(-1) for _, p in named])

    @property
    def size(self) -> int:
        """Return d, the number of weights."""
        return self.weights.numel()

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of a vector in the shapes of the parameters, by parameter name."""
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @torch.no_grad()
    def value(self, w: Tensor) -> Value:
        """Return the loss and the error at `w`.

        The error is 0 if the outputs have one dimension, as those of a network without classes.
        """
        parameters = self.split(w)
        if self.batchnorm == "reestimated":
            self.model.load_state_dict(parameters, strict=False)
            with torch.random.fork_rng([w.device] if w.is_cuda else []):
                torch.manual_seed(0)  # dropout is on while statistics are estimated
                reestimate_statistics(self.model, self.images.split(self.batch_size))

        loss = torch.zeros((), dtype=torch.float64, device=w.device)
        wrong = torch.zeros((), dtype=torch.int64, device=w.device)
        for images, labels, share in self._batches():
            outputs = functional_call(self.model, parameters, images)
            loss += share * self.criterion(outputs, labels)
            if outputs.dim() > 1:
                wrong += (outputs.argmax(1) != labels).sum()

        return Value(loss.item(), 100 * wrong.item() / len(self.labels))

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """Return L(w) and ∇L(w).

        Raises:
            ValueError: `batchnorm` is "reestimated".
        """
        self._check_differentiable()
        total = torch.zeros_like(w)
        value = torch.zeros((), dtype=torch.float64, device=w.device)
        for images, labels, share in self._batches():
            variable = w.detach().requires_grad_()
            loss = self.criterion(functional_call(self.model, self.split(variable), images), labels)
            (gradient,) = torch.autograd.grad(loss, variable)
            total.add_(gradient, alpha=share)
            value += share * loss.detach()
        return value.item(), total

    def hessian_product(self, w: Tensor, v: Tensor) -> Tensor:
        """Return ∇²L(w) v, the derivative of the gradient along `v` (Pearlmutter, 1994).

        Forward mode over the backward pass takes two thirds of the time of two backward passes.

        Raises:
            ValueError: `batchnorm` is "reestimated".
        """
        self._check_differentiable()
        total = torch.zeros_like(w)
        for images, labels, share in self._batches():
            with warnings.catch_warnings(), forward_ad.dual_level():
                warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # torch uses it itself
                variable = forward_ad.make_dual(w.detach().requires_grad_(), v.to(w))
                loss = self.criterion(functional_call(self.model, self.split(variable), images), labels)
                (gradient,) = torch.autograd.grad(loss, variable)
                product = forward_ad.unpack_dual(gradient).tangent
                if product is not None:  # None if the gradient does not depend on the weights
                    total.add_(product, alpha=share)
        return total

    def by_batch(self) -> Iterator[tuple["Objective", float]]:
        """Yield an objective for each batch, with the batch's share of all images."""
        for images, labels, share in self._batches():
            yield Objective(self.model, images, labels, len(labels), self.batchnorm, self.criterion), share

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield the images and labels of each batch, with the batch's share of all images."""
        for images, labels in zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            yield images, labels, len(labels) / len(self.labels)

    def _check_differentiable(self) -> None:
        if self.batchnorm == "reestimated":
            raise ValueError("re-estimated statistics have no derivatives: use batchnorm='stored' or 'batch'")
