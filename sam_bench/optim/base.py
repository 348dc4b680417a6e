"""The optimizer that takes the steps: made here or before, and refused where it cannot be a base."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.gradients import local


def base_of(params: Iterable[Any], base: type[Optimizer] | Optimizer, options: dict[str, Any]) -> Optimizer:
    """The base optimizer: `base` itself, or made of this class with these options.

    Raises:
        TypeError: it is neither, or there are options for one that is made already.
        ValueError: it is of other parameters, or it cannot be a base.
    """
    if not isinstance(base, Optimizer):
        if not (isinstance(base, type) and issubclass(base, Optimizer)):
            raise TypeError(
                f"base_optimizer={base!r} is no optimizer: give a class such as torch.optim.SGD, or an instance"
            )
        base = base(params, **options)
    elif options:
        raise TypeError(f"the base optimizer is made already: {', '.join(options)} must be given to its constructor")
    elif {id(p) for p in _tensors(params)} != {id(p) for group in base.param_groups for p in group["params"]}:
        raise ValueError("the base optimizer was made with other parameters than these")
    if isinstance(base, torch.optim.LBFGS):
        raise ValueError("LBFGS takes a closure of its own, so it cannot be a base: choose another optimizer")
    if any(group.get("maximize") for group in base.param_groups):
        raise ValueError("maximize=True: a perturbation here goes where the loss rises; minimise the negative instead")
    if (inner := _inner_optimizer(base)) is not None:
        raise ValueError(
            f"{type(base).__name__} keeps another optimizer inside ({type(inner).__name__}), whose state could be "
            "neither undone after a gradient that is not finite nor saved: give that optimizer as the base"
        )
    if "rho" in base.defaults:
        raise ValueError(f"{type(base).__name__} has a setting rho of its own, so it cannot be a base: choose another")
    if exchanges_weights(base):
        _train(base)
    return base


def _inner_optimizer(base: Optimizer) -> Optimizer | None:
    """Return an optimizer that a base keeps inside with a state of its own, or None.

    Wrappers that hand on the very state of the optimizer inside, as Accelerate's do, keep nothing of their own.
    """
    for value in vars(base).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for each in several:
            if isinstance(each, Optimizer) and each.state is not base.state:
                return each
    return None


def exchanges_weights(base: Optimizer) -> bool:
    """Whether a base evaluates other weights than it trains, as schedule-free ones do: its `eval` and `train`."""
    return callable(getattr(base, "eval", None)) and callable(getattr(base, "train", None))


def _train(base: Any) -> None:
    base.train()


def load_in_place(base: Optimizer, state_dict: dict[str, Any]) -> None:
    """`base.load_state_dict`, but its state and groups stay the objects that others refer to.

    Raises:
        ValueError: the groups do not match.
    """
    state = base.state
    groups = base.param_groups
    base.load_state_dict(state_dict)
    for group, loaded in zip(groups, base.param_groups, strict=True):
        group.clear()
        group.update(loaded)
    state.clear()
    state.update(base.state)
    base.state = state
    base.param_groups = groups


def is_training(base: Optimizer) -> bool:
    """Whether the weights are those that a base trains, rather than those that it evaluates."""
    return any(group.get("train_mode", True) for group in base.param_groups)


def has_one_rate(base: Optimizer) -> bool:
    """Whether a step of a base is one of its learning rate along a direction, for all tensors alike."""
    return not exchanges_weights(base) and not any("other_lr_ratio" in group for group in base.param_groups)


@contextlib.contextmanager
def evaluated_weights(optimizer: Optimizer) -> Iterator[bool]:
    """The weights that are to be evaluated, where these are others than those that the base trains, for a while.

    Schedule-free optimizers evaluate an average, which their `eval` puts in the weights' place. Afterwards the weights
    are as before, bit for bit, which `train` alone does not make them.

    Args:
        optimizer: the base, or a sharpness-aware method on it.

    Returns:
        Whether they are others.

    Example:
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
        >>> with evaluated_weights(optimizer) as others:  # False here; True with a schedule-free base
        ...     output = model(x)
    """
    base: Any = getattr(optimizer, "base_optimizer", optimizer)
    changed: Callable[[], None] = getattr(optimizer, "drop_gathered", lambda: None)
    if not exchanges_weights(base):
        yield False
        return
    if not is_training(base):  # they are there already
        yield True
        return
    parameters = [p for group in base.param_groups for p in group["params"]]
    with torch.no_grad():
        kept = [p.clone() for p in parameters]
        base.eval()
        changed()
        torch.clear_autocast_cache()  # an autocast around this must not use the weights of before
    try:
        yield True
    finally:
        with torch.no_grad():
            base.train()
            torch._foreach_copy_([local(p) for p in parameters], [local(p) for p in kept])
            changed()
            torch.clear_autocast_cache()


def _tensors(params: Iterable[Any]) -> Iterator[Tensor]:
    for item in [params] if isinstance(params, Tensor) else params:
        if isinstance(item, dict):
            yield from _tensors(item["params"])
        else:
            yield item[1] if isinstance(item, tuple) else item
