"""Sharpness-aware minimisation, and methods that differ from it only in the perturbation."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.gradients import Tensors
from sam_bench.optim.norms import Direction, scaled_unit, unit
from sam_bench.optim.registry import ADAPTIVE


class SAM(SharpnessAware):
    """`e = ρ g / (‖g‖ + 1e-12)`, `v = h` (Foret et al., 2021, arXiv:2010.01412, equation 2).

    Args:
        adaptive: scale the perturbation element-wise by `T = |w|`: `e = ρ T² g / (‖T g‖ + 1e-12)`, as `ASAM` does.

    The other arguments are those of `SharpnessAware`.

    Example:
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> optimizer.passes
        2.0
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        model: nn.Module | None = None,
        **options: Any,
    ):
        ADAPTIVE.check(adaptive)
        super().__init__(params, base_optimizer, rho, model=model, **options)
        self.adaptive = adaptive

    def direction(self, w: Tensors, g: Tensors, *_: Any, **memory: Any) -> Direction:
        return scaled_unit(torch._foreach_abs(w), g) if self.adaptive else unit(g)


class USAM(SharpnessAware):
    """`e = ρ g`, not normalised, `v = h` (Andriushchenko & Flammarion, 2022, arXiv:2206.06232).

    `rho` is the length of the ascent step in units of the gradient.

    Example:
        >>> optimizer = USAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    def direction(self, w: Tensors, g: Tensors) -> Tensors:
        return g


class SAMON(SAM):
    """SAM's or ASAM's perturbation of the normalisation layers' parameters alone, its norm taken over them; `v = h`.

    Müller et al. (2023), arXiv:2306.04226. A normalisation layer is one of torch's, or a module whose class or name
    says so (`LlamaRMSNorm`, `encoder.norm1`, `bn2`) and whose parameters are all vectors.

    Args:
        adaptive: scale the perturbation element-wise by `T = |w|` on every tensor. The authors' class has an offset η
            of 0.01 and `T = 1` on biases by default, their command line an η of 0.
        model: where the normalisation layers are looked for; needed.

    Raises:
        ValueError: there is no model, or none of the parameters is one of a normalisation layer.

    Example:
        >>> optimizer = SAMON(model.parameters(), torch.optim.SGD, rho=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> len(optimizer.perturbed)  # weight and bias of the one normalisation layer
        2
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        model: nn.Module | None = None,
        **options: Any,
    ):
        if model is None:
            raise ValueError("SAM-ON finds the normalisation layers in the model: give it model=")
        super().__init__(params, base_optimizer, rho, adaptive=adaptive, model=model, **options)
        layers = [module for name, module in model.named_modules() if _is_normalisation(name, module)]
        own = {p for layer in layers for p in layer.parameters(recurse=False)}
        self.perturbed = {p for p in self._parameters() if p in own}
        if not self.perturbed:
            raise ValueError("SAM-ON perturbs normalisation layers, and none of the parameters is of one")


_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _is_normalisation(name: str, module: nn.Module) -> bool:
    """Return True if a module is a normalisation layer.

    Args:
        name: its path in the model, such as "layer1.0.bn1".
    """
    if isinstance(module, _NORMALISATION):
        return True
    own_name = name.rpartition(".")[2].lower()
    called_so = "norm" in type(module).__name__.lower() or "norm" in own_name or re.match(r"bn\d*$", own_name)
    return bool(called_so) and all(p.squeeze().dim() <= 1 for p in module.parameters(recurse=False))
