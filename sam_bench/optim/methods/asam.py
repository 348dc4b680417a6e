"""Adaptive sharpness-aware minimisation, in the two forms that are in use."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sam_bench.optim.methods.base import Method, global_norm


def adaptive_direction(scale: list[Tensor], g: list[Tensor]) -> list[Tensor]:
    """`T² g / (‖T g‖ + 1e-12)`, with `T` given element-wise by `scale`, which is overwritten."""
    scaled = torch._foreach_mul(scale, g)
    torch._foreach_mul_(scaled, scale)
    torch._foreach_mul_(scale, g)
    torch._foreach_div_(scaled, global_norm(scale) + 1e-12)
    return scaled


class ASAM(Method):
    """`e = ρ T² g / (‖T g‖ + 1e-12)`, `T = |w|` on every tensor, `v = h`.

    The element-wise form of Kwon et al. (2021, arXiv:2102.11600, equation 8) without its offset, as the SAM example
    and most code that followed it have it.
    """

    def direction(self, w: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        return adaptive_direction(torch._foreach_abs(w), g)


class OfficialASAM(Method):
    """ASAM as its authors published it: `T = |w| + η` on tensors named weight, `T = 1` on the others.

    Kwon et al. (2021), arXiv:2102.11600, equation 8, and the code beside it.

    Args:
        eta: the offset η, in units of the weights.

    Raises:
        ValueError: `prepare` was told no names; give the base optimizer `model.named_parameters()`.
    """

    def __init__(self, eta: float = 0.01):
        self.eta = eta
        self.adaptive: set[nn.Parameter] = set()

    def prepare(self, names: Mapping[nn.Parameter, str]) -> None:
        if not names:
            raise ValueError("asam_official tells weights by their names: construct the base optimizer from "
                             "model.named_parameters()")  # fmt: skip
        self.adaptive = {parameter for parameter, name in names.items() if "weight" in name}

    def direction(self, w: list[Tensor], g: list[Tensor]) -> list[Tensor]:
        scale = [p.abs().add_(self.eta) if p in self.adaptive else torch.ones_like(p) for p in w]
        return adaptive_direction(scale, g)
