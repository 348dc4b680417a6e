"""Steps without a closure: the caller computes the gradients between `first_step` and `second_step`."""

from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler
from torch.torch_version import TorchVersion

from sam_bench.optim.checkpoint import Checkpointed
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.norms import over
from sam_bench.optim.passes import Passes
from sam_bench.optim.progress import HalfStep, SharedAttribute
from sam_bench.optim.scaling import scale_again, unscale

#: Before torch 2.12, torch.compile fails on a loop that sets an attribute of an optimizer: steps then run uncompiled.
uncompiled_before_torch_2_12: Callable[[Callable[..., Any]], Any] = (
    torch.compiler.disable if TorchVersion(torch.__version__) < "2.12" else lambda step: step
)


class ByHand(Checkpointed):
    """Steps that the caller takes in two halves, with the gradients computed in between."""

    _opt_called = SharedAttribute[bool]("stepped")  # torch's schedulers set this name and look for it

    @uncompiled_before_torch_2_12
    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> bool:
        """Take the first half of a step: from the gradients at `w`, in `.grad`, to the weights `w + e`.

        With several processes these gradients are used as they are: compute them under `no_sync()` to give each process
        its own perturbation. Hooks of `register_step_pre_hook` are called first.

        Args:
            zero_grad: clear the gradients for the second pass; if False, clear them yourself.
            scaler: the loss scaling that these gradients carry.

        Returns:
            True if this step needs gradients between the two calls. If False, the weights are `w`, and `second_step`
            uses the gradients of the first pass and ignores any computed since.

        Raises:
            RuntimeError: `first_step` was called and `second_step` was not, both passes of the method are at perturbed
                weights, or a pre-hook returned new arguments.
            ValueError: no parameter has a gradient, because backward() was not called on the loss.
        """
        self._refuse_during_step("first_step()")
        if self.perturbs_first and self.two_passes:
            raise RuntimeError(f"{self.method_name} perturbs before both of its passes: call step(closure)")
        for hook in self._optimizer_step_pre_hooks.values():
            if hook(self, (), {}) is not None:
                raise RuntimeError("a step pre-hook cannot replace its arguments in first_step(): return None from it")

        clean_statistics = self.statistics.read()
        try:
            with over(self._find_shards()):
                # The only gradient is taken at perturbed weights, so none is there yet.
                if self.perturbs_first:
                    if zero_grad:
                        self._clear_gradients()
                    self._perturb(self._compute_perturbation_ahead(0))
                    self.progress.half_step = HalfStep(
                        self.next_has_second_pass, {}, self._true_on_device(), clean_statistics, scaler
                    )
                    return True

                g = self._take_gradients(keep=not zero_grad)
                finite = unscale(g, scaler)
                has_second_pass = self._takes_second_pass(g)
                if has_second_pass:
                    self._perturb(self._compute_perturbation(g, finite))
                else:
                    scale_again(g, scaler)
        except BaseException:
            self._undo_step(clean_statistics)
            raise

        self.passes += 1
        self.progress.half_step = HalfStep(
            has_second_pass,
            self._kept_of(g) if has_second_pass else g,
            finite,
            clean_statistics,
            scaler,
        )
        return has_second_pass

    @uncompiled_before_torch_2_12
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> None:
        """Take the second half of a step: restore `w`, then step the base with the gradients at `w + e`, in `.grad`.

        Hooks of `register_step_post_hook` are called at its end.

        If a gradient is not finite, the running statistics become those after the previous step. In the first step
        after construction or loading, they become those after the first pass.

        Args:
            zero_grad: clear the gradients after the step.
            scaler: the one given to `first_step`.

        Raises:
            RuntimeError: `first_step` was not called, or the scaler has unscaled the gradients already; in the second
                case the step is undone.
            ValueError: no parameter has a gradient, or `first_step` was given another scaler; the step is undone.
        """
        self._finish_half_step(scaler)
        if zero_grad:
            self._clear_gradients()
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    def _finish_half_step(self, scaler: GradScaler | None) -> None:
        """Take the second half of a step, without the post-hooks.

        Raises:
            RuntimeError: `first_step` was not called.
            ValueError: no parameter has a gradient, or `first_step` was given another scaler.
        """
        half_step = self.progress.half_step
        if half_step is None:
            raise RuntimeError("second_step() came first: call first_step() before it")
        needs_gradients = half_step.has_second_pass or self.perturbs_first
        if scaler is not half_step.scaler:
            self.restore()
            raise ValueError("first_step() and second_step() must be given the same scaler; the step was undone")

        try:
            h = self._take_gradients() if needs_gradients else half_step.g
        except ValueError:
            self.restore()
            raise
        self.passes += needs_gradients
        self._restore_weights()
        if self.batchnorm == "clean" and not self.perturbs_first:
            self.statistics.write(half_step.clean_statistics)
        self.progress.half_step = None

        # The caller could not average these: in the first pass it was not known that there is no second one.
        if not needs_gradients:
            h = self.replicas.average(h, self._parameters())
        g = half_step.g if half_step.has_second_pass else {}
        batch = Passes(None, g, h, half_step.finite, half_step.has_second_pass)

        statistics_before = self._statistics_before(half_step)
        try:
            with over(self._find_shards()):
                self._update(batch, statistics_before, scaler)
        except BaseException:
            self._undo_step(statistics_before)
            raise
        self._opt_called = True

    @torch.no_grad()
    def restore(self) -> None:
        """Undo a step between `first_step` and `second_step`: put weights and running statistics back.

        Both are then as before the step. In the first step after construction or loading, the running statistics are as
        after the first pass.
        """
        half_step = self.progress.half_step
        if half_step is None:
            self._restore_weights()
        else:
            self._undo_step(self._statistics_before(half_step))
            self.progress.half_step = None

    def _statistics_before(self, half_step: HalfStep) -> FlatCopy:
        """Return the running statistics before a step by hand, whose first pass ran before `first_step`.

        They are those after the previous step; without one, those after the first pass.
        """
        after_last_step = self.progress.statistics_after_step
        return half_step.clean_statistics if after_last_step is None else after_last_step
