"""Sharpness-aware minimisation (SAM), and methods that differ from it only in the perturbation.

Letters as in `SharpnessAware`: w weights, g = ∇L(w), e perturbation, h = ∇L(w + e), v the base optimizer's input.
"""

import re
from typing import Any

import torch
from torch import nn

from sam_bench.optim.gradients import Tensors
from sam_bench.optim.method import BaseOptimizer, Params
from sam_bench.optim.norms import Direction, scaled_unit, unit
from sam_bench.optim.registry import ADAPTIVE
from sam_bench.optim.sharpness_aware import SharpnessAware


class SAM(SharpnessAware):
    """SAM: `e = ρ g / (‖g‖ + 1e-12)`, `v = h` (Foret et al., 2021, arXiv:2010.01412, equation 2).

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
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        **options: Any,
    ):
        ADAPTIVE.check(adaptive)
        super().__init__(params, base_optimizer, rho, **options)
        self.adaptive = adaptive

    def direction(self, w: Tensors, g: Tensors, *_: Any, **memory: Any) -> Direction:
        return scaled_unit(torch._foreach_abs(w), g) if self.adaptive else unit(g)


class USAM(SharpnessAware):
    """SAM without normalisation: `e = ρ g`, `v = h` (Andriushchenko & Flammarion, 2022, arXiv:2206.06232).

    So `rho` is a step size, not the length of the perturbation.

    Example:
        >>> optimizer = USAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
    """

    def direction(self, w: Tensors, g: Tensors) -> Tensors:
        return g


class SAMON(SAM):
    """SAM that perturbs only the parameters of normalisation layers; the gradient's norm is taken over them; `v = h`.

    Müller et al. (2023), arXiv:2306.04226. A normalisation layer is one of torch's, or a module with a class or name
    such as `LlamaRMSNorm`, `encoder.norm1` or `bn2` and with no parameters but vectors.

    Args:
        adaptive: scale the perturbation element-wise by `T = |w|` on every tensor, as ASAM does. By default the
            authors' class has an offset η of 0.01 and `T = 1` on biases, and their command line an η of 0.
        model: the model whose normalisation layers are perturbed; required.

    Raises:
        ValueError: no model is given, or none of the parameters belongs to a normalisation layer.

    Example:
        >>> optimizer = SAMON(model.parameters(), torch.optim.SGD, rho=0.5, model=model, lr=0.1)
        >>> loss = optimizer.step(closure)
        >>> len(optimizer.perturbed)  # weight and bias of the one normalisation layer
        2
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        *,
        model: nn.Module | None = None,
        **options: Any,
    ):
        if model is None:
            raise ValueError("SAM-ON needs the model, to find its normalisation layers: give model=")
        super().__init__(params, base_optimizer, rho, model=model, **options)

        layers = [module for name, module in model.named_modules() if _is_normalisation(name, module)]
        in_layers = {p for layer in layers for p in layer.parameters(recurse=False)}
        self.perturbed = {p for p in self._parameters() if p in in_layers}
        if not self.perturbed:
            raise ValueError("SAM-ON perturbs normalisation layers only, and none of the parameters belongs to one")


_NORMALISATION_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _is_normalisation(name: str, module: nn.Module) -> bool:
    """Return True if a module is a normalisation layer.

    Args:
        name: its path in the model, such as "layer1.0.bn1".
    """
    if isinstance(module, _NORMALISATION_LAYERS):
        return True

    last_name = name.rpartition(".")[2].lower()
    sounds_like_one = "norm" in type(module).__name__.lower() or "norm" in last_name or re.match(r"bn\d*$", last_name)
    return bool(sounds_like_one) and all(p.squeeze().dim() <= 1 for p in module.parameters(recurse=False))
