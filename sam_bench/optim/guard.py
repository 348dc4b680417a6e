"""A base optimizer's step that is undone, without asking the host, where a gradient was not finite."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import local


def guarded_step(base: Optimizer, finite: Tensor) -> bool:
    """`base.step()`, leaving parameters and state as they were where `finite` (a boolean scalar) is false.

    Fused optimizers skip inside their kernel, as they do for a gradient scaler. For any other, parameters and state are
    copied first and chosen afterwards, which costs their memory once more. State that this very step created is
    removed where the step is skipped: such a step waits for the device, and so does one of an optimizer whose counters
    are on another device than the gradients (Adam's relatives, unless `fused` or `capturable`), or are entries of its
    groups (schedule-free ones). Of a base's state only tensors are undone, which is all of it for those of
    `torch.optim`.

    Returns:
        Whether this step created state, which may have been removed again.
    """
    known = {p for p, state in base.state.items() if state}
    skips_itself = getattr(base, "_step_supports_amp_scaling", False)  # torch's own mark of such a kernel
    if skips_itself and all(group.get("fused") for group in base.param_groups):
        fused: Any = base  # an attribute that its kernel looks for
        fused.found_inf = (~finite).float()
        base.step()
        fused.found_inf = None  # not in a finally, in which compiled code cannot break, as it does in torch's own step
    else:
        w = [p for group in base.param_groups for p in group["params"] if p.grad is not None]
        state = _state(base)
        before = FlatCopy([local(p.detach()) for p in w] + list(state.values()))
        numbers = [dict(group) for group in base.param_groups]
        base.step()
        after = _state(base)
        before.keep_if(finite, [local(p.detach()) for p in w] + [after[key] for key in state])
        if _counted(base, numbers) and not finite.item():
            for group, old in zip(base.param_groups, numbers, strict=True):
                group.clear()
                group.update(old)
    created = [p for p, state in base.state.items() if state and p not in known]
    if created and not finite.item():
        for p in created:
            del base.state[p]
    return bool(created)


def _state(base: Optimizer) -> dict[tuple[Tensor, str], Tensor]:
    """The tensors of an optimizer's state, by parameter and name."""
    return {(p, n): local(v) for p, state in base.state.items() for n, v in state.items() if isinstance(v, Tensor)}


def _counted(base: Optimizer, before: list[dict[str, Any]]) -> bool:
    """Whether a step has put anything else into the base's groups."""
    pairs = zip(base.param_groups, before, strict=True)
    return any(group.get(name) is not old.get(name) for group, old in pairs for name in group.keys() | old.keys())
