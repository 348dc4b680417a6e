"""Muon for the hidden layers of any network and AdamW for all other tensors, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """An optimizer that uses torch's Muon on the weights of hidden layers, and torch's AdamW on everything else.

    Weights are the tensors with two or more dimensions above 1; if tensors have names, as from `named_parameters()`,
    only those whose name ends with "weight". The first weight is taken to be the input layer's and the last one the
    output layer's; all others are hidden. A group's entry `hidden`, a boolean or one for each parameter, overrides
    this. A convolution is treated as the matrix of its filters, of shape (C_out, C_in · k · k). Jordan et al. (2024),
    https://kellerjordan.github.io/posts/muon, also leave the other layers to AdamW.

    The groups' learning rate is Muon's. AdamW's is a constant multiple of it, so that a schedule changes both.

    Args:
        params: parameters or groups, as torch's optimizers take them, in the network's order.
        lr: learning rate of hidden layers, times `√max(1, rows / columns)`.
        weight_decay: decoupled weight decay of all tensors.
        momentum, nesterov: Muon's settings, for hidden layers.
        other_lr: AdamW's learning rate when Muon's is `lr`.
        betas, eps: AdamW's settings.

    Raises:
        ValueError: lr or other_lr is not above 0, or there is no hidden layer.

    Example:
        >>> optimizer = SAM(model.parameters(), Muon, rho=0.05, model=model, lr=0.02)
        >>> loss = optimizer.step(closure)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        other_lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
    ):
        if not (lr > 0 and other_lr > 0):
            raise ValueError(f"lr={lr} and other_lr={other_lr} must be above 0")
        defaults: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        defaults |= {"other_lr_ratio": other_lr / lr, "betas": betas, "eps": eps, "hidden": None}
        super().__init__(params, defaults)

        weights = [p for group in self.param_groups for p in _matrix_weights(group)]
        hidden_weights = set(weights[1:-1])
        for group in self.param_groups:
            if group["hidden"] is None:
                group["hidden"] = [p in hidden_weights for p in group["params"]]
        if not any(hidden for group in self.param_groups for _, hidden in _mark_hidden(group)):
            raise ValueError("Muon needs a hidden layer's weight, and none of the parameters is one: use another base")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step; return the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [(p, hidden) for p, hidden in _mark_hidden(group) if p.grad is not None]
            self._step_hidden([p for p, hidden in with_gradient if hidden], group)
            self._step_others([p for p, hidden in with_gradient if not hidden], group)
        return loss

    def _step_hidden(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step hidden layers with torch's Muon, on matrix views of weights and momentum: it takes matrices only."""
        if not parameters:
            return

        views = [_as_matrix(p, like=p) for p in parameters]
        options = {name: group[name] for name in ("lr", "weight_decay", "momentum", "nesterov")}
        muon = torch.optim.Muon(views, **options)

        # The momentum stays in this optimizer's state: torch's Muon is made anew in each step.
        for p, view in zip(parameters, views, strict=True):
            view.grad = None if p.grad is None else _as_matrix(p.grad, like=p)
            buffer = self.state[p].get("momentum_buffer")
            if buffer is None:
                buffer = torch.zeros_like(p)
            elif buffer.stride() != p.stride():  # saved when the model had another memory layout
                buffer = torch.empty_like(p).copy_(buffer)
            self.state[p]["momentum_buffer"] = buffer
            muon.state[view]["momentum_buffer"] = _as_matrix(buffer, like=p)
        muon.step()  # type: ignore[no-untyped-call]

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step the other tensors with torch's AdamW, which keeps its state in this optimizer's."""
        if not parameters:
            return

        options = {name: group[name] for name in ("betas", "eps", "weight_decay")}
        fused = all(p.is_floating_point() for p in parameters) or None  # fused, because it counts steps on the device
        adamw = torch.optim.AdamW(parameters, lr=group["lr"] * group["other_lr_ratio"], fused=fused, **options)
        adamw.state = self.state
        for p in parameters:
            if fused and "step" in self.state[p]:  # a loaded checkpoint may have it on another device
                self.state[p]["step"] = self.state[p]["step"].to(p.device)
        adamw.step()


def _matrix_weights(group: dict[str, Any]) -> list[Tensor]:
    """Return a group's weights that are matrices or convolutions."""
    names = group.get("param_names") or ["weight"] * len(group["params"])
    named = [p for p, name in zip(group["params"], names, strict=True) if name.endswith("weight")]
    return [p for p in named if sum(n > 1 for n in p.shape) > 1 and p.is_floating_point()]


def _mark_hidden(group: dict[str, Any]) -> list[tuple[Tensor, bool]]:
    """Return a group's parameters, each with True if it is hidden; in a group added later, all weights are."""
    hidden = group["hidden"]
    if hidden is None:
        weights = set(_matrix_weights(group))
        hidden = [p in weights for p in group["params"]]
    marks = [hidden] * len(group["params"]) if isinstance(hidden, bool) else hidden
    return list(zip(group["params"], marks, strict=True))


def _as_matrix(x: Tensor, like: Tensor) -> Tensor:
    """Return a tensor with all dimensions but the first flattened to one, in the order that `like` has in memory."""
    order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    rows = x.detach().permute(0, *order)
    return rows.reshape(len(x), -1) if x is not like else rows.view(len(x), -1)
