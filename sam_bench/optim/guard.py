"""A base optimizer's step that is undone, without asking the host, where a gradient was not finite."""

import torch
from torch import Tensor
from torch.optim import Optimizer


def guarded_step(base: Optimizer, finite: Tensor) -> None:
    """`base.step()`, leaving parameters and state as they were where `finite` (a boolean scalar) is false.

    Fused optimizers skip inside their kernel, as they do for a gradient scaler. For any other the tensors are copied
    first and chosen afterwards, at the cost of a copy of parameters and state. State that this very step created is
    zeroed where the step is skipped: that is how torch's optimizers start it.
    """
    known = {id(tensor) for tensor in _state(base)}
    if all(group.get("fused") for group in base.param_groups):
        base.found_inf = (~finite).float()
        try:
            base.step()
        finally:
            del base.found_inf
    else:
        tensors = [p for group in base.param_groups for p in group["params"] if p.grad is not None] + _state(base)
        before = [tensor.detach().clone() for tensor in tensors]
        base.step()
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(finite.to(tensor.device), tensor, old))
    for tensor in _state(base):
        if id(tensor) not in known:
            tensor.copy_(torch.where(finite.to(tensor.device), tensor, torch.zeros_like(tensor)))


def _state(base: Optimizer) -> list[Tensor]:
    return [value for state in base.state.values() for value in state.values() if isinstance(value, Tensor)]
