"""The content of an optimizer's checkpoint: the base optimizer's state, the counters and the method's memory."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.base import load_in_place
from sam_bench.optim.gradients import is_sharded, local, real, sharded_like
from sam_bench.optim.progress import Progress

#: The entry of a state dict that is not torch's.
ENTRY = "sharpness_aware"


def collect_state(base: Optimizer, parameters: list[Tensor], progress: Progress, method: str) -> dict[str, Any]:
    """Return the base optimizer's state dict with one more entry, for the counters and the method's memory.

    Args:
        parameters: all of them, in the order of the groups.
        method: the name of the class that will load the state.
    """
    memory = {
        i: {name: _shard_for_saving(p, value) for name, value in progress.memory[p].items()}
        for i, p in enumerate(parameters)
        if p in progress.memory
    }
    own = {
        "steps": progress.steps,
        "passes": progress.passes,
        "skipped": progress.skipped.clone(),
        "memory": memory,
        "method": method,
    }
    state_dict = base.state_dict()
    if other_dtypes := _find_other_dtypes(state_dict["state"], parameters):
        own["other_dtypes"] = other_dtypes
    return state_dict | {ENTRY: own}


def apply_state(
    state_dict: dict[str, Any], base: Optimizer, parameters: list[Tensor], progress: Progress, method: str
) -> None:
    """Load what `collect_state` returned into the base optimizer and the progress; forget a step that is half done.

    Raises:
        ValueError: the groups do not match, or another class saved the state.
    """
    if ENTRY not in state_dict:
        raise ValueError(f"this is another optimizer's state: it has no entry {ENTRY!r}")
    own = state_dict[ENTRY]
    if own["method"] != method:
        raise ValueError(f"this is the state of {own['method']}, not of {method}")

    load_in_place(base, {key: state_dict[key] for key in ("state", "param_groups")})

    # torch casts to the parameter's dtype: counters, and moments of another dtype, are taken as they were saved.
    other_dtypes = own.get("other_dtypes", {})
    for i, saved in state_dict["state"].items():
        present = base.state[parameters[i]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and (value.dim() == 0 or name in other_dtypes.get(i, ())):
                present[name] = value.to(present[name].device, copy=True)

    progress.forget_step()
    progress.settled = False
    progress.steps = own["steps"]
    progress.passes = own["passes"]
    progress.skipped.copy_(own["skipped"])
    progress.memory = {
        parameters[i]: {name: local(value).to(parameters[i].device, copy=True) for name, value in of_one.items()}
        for i, of_one in own["memory"].items()
    }


def _find_other_dtypes(state: dict[int, dict[str, Any]], parameters: list[Tensor]) -> dict[int, list[str]]:
    """Return the names of a base's tensors that have another dtype than their parameter, by its number.

    torch's `load_state_dict` would cast them to the parameter's dtype.
    """
    names = {
        i: [name for name, x in own.items() if isinstance(x, Tensor) and x.dim() and x.dtype != parameters[i].dtype]
        for i, own in state.items()
    }
    return {i: of_one for i, of_one in names.items() if of_one}


def _shard_for_saving(p: Tensor, value: Tensor) -> Tensor:
    """Return a tensor of a sharded parameter's memory as a sharded tensor, if it has the shard's shape."""
    return sharded_like(p, value) if is_sharded(p) and value.shape == real(p).shape else value
