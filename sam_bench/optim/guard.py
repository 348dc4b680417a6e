"""A base optimizer's step that is undone on the device if a gradient is not finite."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import local


def guarded_step(base: Optimizer, finite: Tensor) -> bool:
    """Call `base.step()`, and leave parameters and state as they were if `finite` (a boolean scalar) is false.

    Fused optimizers skip the step inside their kernel, as they do for a gradient scaler. For any other optimizer,
    parameters and state are copied before the step and chosen after it, which needs their memory once more.

    The host does not wait for the device, with two exceptions. A step that creates state waits, because that state is
    removed if the step is skipped. So does a step whose counters are on another device than the gradients (Adam's
    relatives, unless `fused` or `capturable`) or are entries of the groups (schedule-free optimizers).

    Only tensors in the base's state are undone; the optimizers in `torch.optim` have no other state.

    Returns:
        True if this step created state, even if that was removed again.
    """
    had_state = {p for p, state in base.state.items() if state}
    has_skipping_kernel = getattr(base, "_step_supports_amp_scaling", False)  # torch's own mark of such a kernel
    if has_skipping_kernel and all(group.get("fused") for group in base.param_groups):
        fused: Any = base  # typed Any to set `found_inf`, for which the kernel looks
        fused.found_inf = (~finite).float()
        base.step()
        fused.found_inf = None  # no try/finally: torch's step breaks the graph, which torch.compile cannot do in one
    else:
        w = [p for group in base.param_groups for p in group["params"] if p.grad is not None]
        state = _state_tensors(base)
        before = FlatCopy([local(p.detach()) for p in w] + list(state.values()))
        groups_before = [dict(group) for group in base.param_groups]

        base.step()

        # Undone on the device: asking the host whether to skip would stall the GPU.
        after = _state_tensors(base)
        before.keep_if(finite, [local(p.detach()) for p in w] + [after[key] for key in state])
        if _groups_changed(base, groups_before) and not finite.item():
            for group, old in zip(base.param_groups, groups_before, strict=True):
                group.clear()
                group.update(old)

    created = [p for p, state in base.state.items() if state and p not in had_state]
    if created and not finite.item():
        for p in created:
            del base.state[p]
    return bool(created)


def _state_tensors(base: Optimizer) -> dict[tuple[Tensor, str], Tensor]:
    """Return the tensors of an optimizer's state, by parameter and name."""
    return {(p, n): local(v) for p, state in base.state.items() for n, v in state.items() if isinstance(v, Tensor)}


def _groups_changed(base: Optimizer, groups_before: list[dict[str, Any]]) -> bool:
    """Return True if an entry of the base's groups is another object than before."""
    pairs = zip(base.param_groups, groups_before, strict=True)
    return any(group.get(name) is not old.get(name) for group, old in pairs for name in group.keys() | old.keys())
