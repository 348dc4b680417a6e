"""The loss of a network on fixed images as a function of its weights: value, gradient, products with the Hessian."""

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

BatchNormMode = Literal["stored", "batch", "reestimated"]
"""What layers of batch normalisation normalise with. "stored": the running statistics that came with the weights, as in
evaluation. "batch": those of each batch, as in training. "reestimated": running statistics that are estimated anew, on
the same images, at every point (values only, no derivatives)."""


class Value(NamedTuple):
    """What a network does on the images: mean cross-entropy in nats, and the error in percent."""

    loss: float
    error: float


class Objective:
    """L(w), the mean cross-entropy of a network on fixed images, in the precision of its parameters.

    All vectors are flat, of d elements, on the parameters' device and of their dtype; d counts the parameters that
    require a gradient, and w has them in the order of `model.parameters()`. Dropout is off, but while statistics are
    re-estimated. Everything is done on a copy of the model, which is left as it is.

    Args:
        images: N × …, what the model takes.
        labels: int64, N.
        batch_size: images in a pass; with `batchnorm="batch"` it decides what a batch is, else only how much
            memory is used.
        batchnorm: one of `BatchNormMode`.
        criterion: `criterion(outputs, labels)`, the mean loss of a batch.

    Raises:
        ValueError: there is no image, an unknown `batchnorm`, or parameters of several dtypes or devices.

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
            raise ValueError(f"there must be images in each pass: {len(labels)} of them, batch_size={batch_size}")
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
        self.weights = torch.cat([p.detach().reshape(-1) for _, p in named])
        """The model's own, at which it was given."""

    @property
    def size(self) -> int:
        """d, the number of weights."""
        return self.weights.numel()

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of a vector, in the parameters' shapes and by their names."""
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @torch.no_grad()
    def value(self, w: Tensor) -> Value:
        """Return the loss and the error at `w`."""
        parameters = self.split(w)
        if self.batchnorm == "reestimated":
            self.model.load_state_dict(parameters, strict=False)
            with torch.random.fork_rng([w.device] if w.is_cuda else []):
                torch.manual_seed(0)  # of dropout, which is on while statistics are estimated
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
        """Return L(w) and ∇L(w)."""
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
        """Return ∇²L(w) v: the derivative of the gradient along `v` (Pearlmutter, 1994), in forward mode.

        Forward mode over the backward pass takes two thirds of the time of two backward passes.
        """
        self._check_differentiable()
        total = torch.zeros_like(w)
        for images, labels, share in self._batches():
            with warnings.catch_warnings(), forward_ad.dual_level():
                warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # torch's own use of it
                variable = forward_ad.make_dual(w.detach().requires_grad_(), v.to(w))
                loss = self.criterion(functional_call(self.model, self.split(variable), images), labels)
                (gradient,) = torch.autograd.grad(loss, variable)
                product = forward_ad.unpack_dual(gradient).tangent
                if product is not None:  # else the gradient does not depend on the weights
                    total.add_(product, alpha=share)
        return total

    def by_batch(self) -> Iterator[tuple["Objective", float]]:
        """Return the objective of each batch, with its share of all images."""
        for images, labels, share in self._batches():
            yield Objective(self.model, images, labels, len(labels), self.batchnorm, self.criterion), share

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Batches with their share of all images."""
        for images, labels in zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            yield images, labels, len(labels) / len(self.labels)

    def _check_differentiable(self) -> None:
        if self.batchnorm == "reestimated":
            raise ValueError("re-estimated statistics have no derivatives: use batchnorm='stored' or 'batch'")
