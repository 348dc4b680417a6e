"""What a method is: a pair of functions on lists of tensors, and the norms that they share."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)))


def inner_product(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """⟨a, b⟩ over all elements of all tensors: a scalar on their device, at least in float32."""
    dtype = torch.promote_types(a[0].dtype, torch.float32)
    return torch.stack([product.sum(dtype=dtype) for product in torch._foreach_mul(a, b)]).sum()


class Method:
    """One sharpness-aware method. `w` are the parameters, `g = ∇L(w)` and `h = ∇L(w + e)`, lists in the same order.

    A method allocates what it returns and changes none of its arguments, except that `combine` may write into `h`.
    Everything stays on the device: nothing here may wait for a value.
    """

    keeps_gradient = False
    """Whether `combine` needs `g`; if not, its memory is free during the second pass and `combine` is given None."""

    def prepare(self, names: Mapping[nn.Parameter, str]) -> None:
        """Told the parameters' names once, before the first step. Empty where the optimizer was given none."""

    def direction(self, w: list[Tensor], g: list[Tensor]) -> list[Tensor] | None:
        """The perturbation at radius one, `e / ρ`, in new tensors; None for a step of one pass."""
        raise NotImplementedError

    def combine(self, g: list[Tensor] | None, h: list[Tensor]) -> list[Tensor]:
        """The direction `v` that the base optimizer is given; after a single pass `h` is `g`."""
        return h
