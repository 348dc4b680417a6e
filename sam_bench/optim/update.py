"""The last part of a step: from the gradients of both passes to new weights."""

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sam_bench.optim.accumulation import find_leftovers
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, Tensors, fill_missing, like, real
from sam_bench.optim.guard import guarded_step
from sam_bench.optim.norms import global_norm, scale_to_norm
from sam_bench.optim.passes import Passes, TwoPasses
from sam_bench.optim.perturbation import scale_by_group
from sam_bench.optim.progress import SharedAttribute
from sam_bench.optim.scaling import unscale_with_scaler


class Update(TwoPasses):
    """The update of weights, running statistics, the base's state and the method's memory, at the end of a step."""

    base_optimizer: Optimizer
    clip_norm: float | None

    #: Number of steps that changed nothing because a gradient was not finite: a scalar on the device.
    skipped = SharedAttribute[Tensor]()
    #: True if the last step created no state of the base optimizer.
    settled = SharedAttribute[bool]()

    def _update(self, batch: Passes, statistics_before: FlatCopy, scaler: GradScaler | None) -> None:
        """Step the base optimizer with the direction made of the whole batch's gradients.

        If something is not finite, weights, running statistics and all state stay as before the step.
        """
        h = batch.h
        g, finite = self._agree_over_processes(batch)
        if scaler is not None:
            unscale_with_scaler(h, finite, scaler, self)

        # The hooks take lists of tensors in one order: g and h of the same parameters.
        parameters = [p for p in self._parameters() if p in h or p in g]
        w = [real(p) for p in parameters]
        all_h = fill_missing(parameters, h)
        all_g = fill_missing(parameters, g) if self.keeps_gradient else all_h
        memory = self._recall(parameters) | ({"weights": w} if self.needs_weights else {})
        if batch.had_second_pass:
            v = self.combine(all_g, all_h, **memory)
            correction = self.correction(all_g, all_h)
            new_memory = self.update_state(all_g, all_h, **memory)
        else:
            v, correction, new_memory = self.combine_single(all_h, **memory), None, {}

        # Checked on the device: asking the host whether to skip would stall the GPU.
        if v is not all_h:
            finite = finite & torch.isfinite(global_norm(all_h))
        norm = global_norm(v)
        finite = finite & torch.isfinite(norm)
        if self.clip_norm is not None:
            v = scale_to_norm(v, self.clip_norm, norm)

        # A parameter without h gets no gradient if v is h, as without a method.
        self._clear_gradients()
        for p, x in zip(parameters, v, strict=True):
            if v is not all_h or p in h:
                p.grad = like(p, x)
        self.settled = not guarded_step(self.base_optimizer, finite)
        self.drop_gathered()
        self.progress.leftovers = find_leftovers(self._parameters())
        if correction is not None:
            step = scale_by_group(self.param_groups, parameters, correction, lambda group: group["lr"], finite)
            torch._foreach_add_(w, list(step.values()))

        self._store_method_state(parameters, new_memory, finite)
        if self.gradient_decides and self.next_has_second_pass:
            self.keep_decision(finite)
        self.progress.statistics_after_step = self.statistics.keep_if(finite, otherwise=statistics_before)
        self.skipped = self.skipped.to(finite.device)
        self.skipped += ~finite
        self.steps += 1
        torch.clear_autocast_cache()

    def _agree_over_processes(self, batch: Passes) -> tuple[Gradients, Tensor]:
        """Return `g` averaged over processes as `h` is, and a boolean scalar, true if `finite` is true in all."""
        if self.replicas.parallel is None:
            return batch.g, batch.finite
        g = batch.g
        if batch.had_second_pass and self.keeps_gradient and not self.sync_perturbation:
            g = {p: x for p, x in self.replicas.average(g, self._parameters()).items() if p in batch.h}
        return g, self.replicas.everywhere(batch.finite)

    def _store_method_state(self, parameters: list[Tensor], new_memory: dict[str, Tensors], finite: Tensor) -> None:
        """Write the method's new memory, in place, unless `finite` is false."""
        for name, values in new_memory.items():
            stored = [self.memory[p][name] for p in parameters]
            before = FlatCopy(stored)
            torch._foreach_copy_(stored, values)
            before.keep_if(finite, stored)
