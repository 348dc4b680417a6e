"""Muon for the hidden layers of any network, AdamW for all else, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """torch's Muon on the weights of the hidden layers, torch's AdamW on everything else.

    Hidden are all tensors with two or more dimensions above 1 but the first and the last of them, which are taken to be
    the input layer's and the output layer's; of tensors that come with names, as from `named_parameters()`, only those
    whose name ends with "weight". A group's own entry `hidden`, a boolean or one for each parameter, decides otherwise.
    A convolution is the matrix of its filters, of shape (C_out, C_in · k · k). Jordan et al. (2024),
    https://kellerjordan.github.io/posts/muon, leave the other layers to AdamW, too.

    The learning rate is Muon's; AdamW's is in a constant proportion to it, so that a schedule changes both.

    Args:
        params: as torch's optimizers take them, in the network's order.
        lr: of hidden layers, times `√max(1, rows / columns)`.
        weight_decay: decoupled, of all tensors.
        momentum, nesterov: of hidden layers.
        other_lr: AdamW's learning rate where `lr` is Muon's.
        betas, eps: AdamW's.

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
        weights = [p for group in self.param_groups for p in _weights(group)]
        inner = set(weights[1:-1])
        for group in self.param_groups:
            if group["hidden"] is None:
                group["hidden"] = [p in inner for p in group["params"]]
        if not any(hidden for group in self.param_groups for _, hidden in _division(group)):
            raise ValueError("Muon is for hidden layers, and none of the parameters is a hidden layer's weight")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            used = [(p, hidden) for p, hidden in _division(group) if p.grad is not None]
            self._step_hidden([p for p, hidden in used if hidden], group)
            self._step_others([p for p, hidden in used if not hidden], group)
        return loss

    def _step_hidden(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """torch's Muon takes matrices only: it is given views of the weights and of their momentum."""
        if not parameters:
            return
        views = [_matrix(p, like=p) for p in parameters]
        options = {name: group[name] for name in ("lr", "weight_decay", "momentum", "nesterov")}
        muon = torch.optim.Muon(views, **options)
        for p, view in zip(parameters, views, strict=True):
            view.grad = None if p.grad is None else _matrix(p.grad, like=p)
            buffer = self.state[p].get("momentum_buffer")
            if buffer is None:
                buffer = torch.zeros_like(p)
            elif buffer.stride() != p.stride():  # the model has another layout than when this was saved
                buffer = torch.empty_like(p).copy_(buffer)
            self.state[p]["momentum_buffer"] = buffer
            muon.state[view]["momentum_buffer"] = _matrix(buffer, like=p)
        muon.step()  # type: ignore[no-untyped-call]

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        options = {name: group[name] for name in ("betas", "eps", "weight_decay")}
        fused = all(p.is_floating_point() for p in parameters) or None  # counts its steps on the device
        adamw = torch.optim.AdamW(parameters, lr=group["lr"] * group["other_lr_ratio"], fused=fused, **options)
        adamw.state = self.state
        for p in parameters:
            if fused and "step" in self.state[p]:  # a checkpoint may have brought it from elsewhere
                self.state[p]["step"] = self.state[p]["step"].to(p.device)
        adamw.step()


def _weights(group: dict[str, Any]) -> list[Tensor]:
    """A group's parameters that are matrices, or convolutions."""
    names = group.get("param_names") or ["weight"] * len(group["params"])
    named = [p for p, name in zip(group["params"], names, strict=True) if name.endswith("weight")]
    return [p for p in named if sum(n > 1 for n in p.shape) > 1 and p.is_floating_point()]


def _division(group: dict[str, Any]) -> list[tuple[Tensor, bool]]:
    """A group's parameters, and whether each is Muon's; of a group that was added later, all weights are."""
    hidden = group["hidden"]
    if hidden is None:
        weights = set(_weights(group))
        hidden = [p in weights for p in group["params"]]
    each = [hidden] * len(group["params"]) if isinstance(hidden, bool) else hidden
    return list(zip(group["params"], each, strict=True))


def _matrix(x: Tensor, like: Tensor) -> Tensor:
    """A tensor with its dimensions after the first as one, in the order in which `like` has them in memory."""
    order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    rows = x.detach().permute(0, *order)
    return rows.reshape(len(x), -1) if x is not like else rows.view(len(x), -1)
