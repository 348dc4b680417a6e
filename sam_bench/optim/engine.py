"""The step that every method shares: perturb, look again, come back, move."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_bench.optim.guard import guarded_step
from sam_bench.optim.methods.base import Method, global_norm
from sam_bench.optim.running_stats import RunningStatistics


class SharpnessAware(Optimizer):
    """A base optimizer that is given a sharpness-aware method's direction instead of the gradient.

    One step: `g = ∇L(w)`; `e = ρ · direction(w, g)`; `h = ∇L(w + e)`; the weights are restored by copy, bit for bit and
    into the same storage; `v = combine(g, h)` goes to the base optimizer. Where `g` or `v` is not finite the step
    changes nothing (weights, statistics and the base's state stay) and `skipped` counts it. Nothing in a step
    waits for the device.

    Parameter groups and state are the base's own, so learning-rate schedulers and `zero_grad` work on either; each
    group has a radius `rho` besides.

    Args:
        base: a `torch.optim.Optimizer` over the parameters; from `named_parameters()` for methods that use names.
        method: what is done with the two gradients.
        rho: the radius ρ of every group that has none of its own.
        model: the module whose running statistics are looked after; None leaves them to the caller.
        batchnorm: "clean" lets running statistics change in the unperturbed pass only, "both" in both passes.

    Raises:
        ValueError: rho is negative or not finite, or batchnorm is neither "clean" nor "both".
    """

    def __init__(
        self,
        base: Optimizer,
        method: Method,
        rho: float = 0.0,
        model: nn.Module | None = None,
        batchnorm: Literal["clean", "both"] = "clean",
    ):
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho={rho} is not a radius: give a finite number of at least 0")
        if batchnorm not in ("clean", "both"):
            raise ValueError(f"batchnorm={batchnorm!r} is neither 'clean' nor 'both'")
        super().__init__(base.param_groups, dict(base.defaults, rho=rho))
        self.base, self.method, self.batchnorm = base, method, batchnorm
        self._share()
        method.prepare(self._names())
        self.statistics = RunningStatistics(model)
        self.passes = 0
        """Forward-backward passes done so far."""
        self.skipped = torch.zeros((), dtype=torch.int64, device=self.param_groups[0]["params"][0].device)
        """Steps that changed nothing because a gradient was not finite."""
        self._saved: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; returns the unperturbed loss, on the device.

        Args:
            closure: clears the gradients, computes the loss and its gradients, returns the loss; called once a pass.

        Raises:
            ValueError: no parameter has a gradient after the closure.
            Exception: whatever the closure raises; weights and running statistics are then as before the step.
        """
        before = self.statistics.read()
        try:
            loss = self._forward_backward(closure)
            w, g = self._with_gradient()
            finite = torch.isfinite(global_norm(g))
            e = self.method.direction(w, g)
            if e is not None:
                kept = g if self.method.keeps_gradient else None
                del g  # what is not kept is free during the second pass
                clean = self.statistics.read()
                self._save(w)
                try:
                    self._ascend(w, e)
                    del e
                    self._forward_backward(closure)
                finally:
                    self._return(w)
                if self.batchnorm == "clean":
                    self.statistics.write(clean)
                self._combine(w, kept)
                finite &= torch.isfinite(global_norm(self._with_gradient()[1]))
        except BaseException:
            self.statistics.write(before)
            raise
        guarded_step(self.base, finite)
        self.statistics.keep_if(finite, otherwise=before)
        self.skipped += ~finite
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and groups, in torch's usual form, and the engine's own counters."""
        return self.base.state_dict() | {"sharpness_aware": {"passes": self.passes, "skipped": self.skipped.clone()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`.

        Raises:
            ValueError: the groups do not match, or the state was not saved by this class.
        """
        if "sharpness_aware" not in state_dict:
            raise ValueError("this is another optimizer's state: it has no entry 'sharpness_aware'")
        self.base.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._share()
        self.passes = state_dict["sharpness_aware"]["passes"]
        self.skipped.copy_(state_dict["sharpness_aware"]["skipped"])

    def _share(self) -> None:
        self.state, self.param_groups = self.base.state, self.base.param_groups

    def _names(self) -> dict[nn.Parameter, str]:
        named = [group for group in self.param_groups if "param_names" in group]
        return {p: name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}

    def _forward_backward(self, closure: Callable[[], Tensor]) -> Tensor:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None  # the first pass's gradient may be needed: the closure must not clear or add to it
        with torch.enable_grad():
            loss = closure()
        self.passes += 1
        return loss.detach()

    def _with_gradient(self) -> tuple[list[Tensor], list[Tensor]]:
        w = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not w:
            raise ValueError("no parameter has a gradient: the closure must call backward() on the loss")
        return w, [p.grad for p in w]

    def _save(self, w: list[Tensor]) -> None:
        for p in w:
            if p not in self._saved:
                self._saved[p] = torch.empty_like(p)
        torch._foreach_copy_([self._saved[p] for p in w], w)

    def _ascend(self, w: list[Tensor], e: list[Tensor]) -> None:
        radius = {p: group["rho"] for group in self.param_groups for p in group["params"]}
        torch._foreach_mul_(e, [radius[p] for p in w])
        torch._foreach_add_(w, e)
        torch.clear_autocast_cache()  # an autocast around the step must not use the weights of before

    def _return(self, w: list[Tensor]) -> None:
        torch._foreach_copy_(w, [self._saved[p] for p in w])
        torch.clear_autocast_cache()

    def _combine(self, w: list[Tensor], g: list[Tensor] | None) -> None:
        both = [i for i, p in enumerate(w) if p.grad is not None]
        v = self.method.combine(g and [g[i] for i in both], [w[i].grad for i in both])
        for i, direction in zip(both, v, strict=True):
            w[i].grad = direction
