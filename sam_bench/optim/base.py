"""The base optimizer, which takes the steps: its construction, checks, loading and evaluation weights."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_bench.optim.gradients import local


def base_of(params: Iterable[Any], base: type[Optimizer] | Optimizer, options: dict[str, Any]) -> Optimizer:
    """Return the base optimizer: `base` itself, or an instance of the class `base`, made with the options.

    Raises:
        TypeError: `base` is neither an optimizer nor a class of them, or options are given for an instance.
        ValueError: the base has other parameters, or is of a kind that cannot be a base.
    """
    if not isinstance(base, Optimizer):
        if not (isinstance(base, type) and issubclass(base, Optimizer)):
            raise TypeError(
                f"base_optimizer={base!r} is not an optimizer: give a class such as torch.optim.SGD, or an instance"
            )
        base = base(params, **options)
    elif options:
        raise TypeError(f"the base optimizer is an instance already: give {', '.join(options)} to its constructor")
    elif {id(p) for p in _tensors(params)} != {id(p) for group in base.param_groups for p in group["params"]}:
        raise ValueError("the base optimizer was made with other parameters than these")

    if isinstance(base, torch.optim.LBFGS):
        raise ValueError("LBFGS takes a closure of its own, so it cannot be a base: choose another optimizer")
    if any(group.get("maximize") for group in base.param_groups):
        raise ValueError("maximize=True is not supported: perturbations raise the loss. Minimise the negative loss")
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

    A wrapper whose `state` is the very state of the optimizer inside, as Accelerate's is, does not count.
    """
    for value in vars(base).values():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for item in items:
            if isinstance(item, Optimizer) and item.state is not base.state:
                return item
    return None


def exchanges_weights(base: Optimizer) -> bool:
    """Return True if a base's `eval` and `train` exchange weights, as those of schedule-free optimizers do."""
    return callable(getattr(base, "eval", None)) and callable(getattr(base, "train", None))


def _train(base: Any) -> None:
    """Put a base's training weights in place."""
    base.train()


def load_in_place(base: Optimizer, state_dict: dict[str, Any]) -> None:
    """Call `base.load_state_dict`, but keep the objects of its state and groups, to which others refer.

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
    """Return True if the training weights of a base are in place, rather than its evaluation weights."""
    return any(group.get("train_mode", True) for group in base.param_groups)


def has_one_rate(base: Optimizer) -> bool:
    """Return True if a base steps all tensors along a direction with one learning rate."""
    return not exchanges_weights(base) and not any("other_lr_ratio" in group for group in base.param_groups)


@contextlib.contextmanager
def evaluated_weights(optimizer: Optimizer) -> Iterator[bool]:
    """Put a base's evaluation weights in place inside this context, if they differ from its training weights.

    Schedule-free optimizers evaluate an average, which their `eval` puts in the weights' place. Afterwards the training
    weights are restored bit for bit, which `train` alone would not do.

    Args:
        optimizer: the base, or a sharpness-aware method on it.

    Yields:
        True if the evaluation weights differ from the training weights.

    Example:
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
        >>> with evaluated_weights(optimizer) as others:  # False here; True with a schedule-free base
        ...     output = model(x)
    """
    base: Any = getattr(optimizer, "base_optimizer", optimizer)
    drop_gathered: Callable[[], None] = getattr(optimizer, "drop_gathered", lambda: None)

    if not exchanges_weights(base):
        yield False
        return
    if not is_training(base):  # the evaluation weights are in place already
        yield True
        return

    parameters = [p for group in base.param_groups for p in group["params"]]
    with torch.no_grad():
        training_weights = [p.clone() for p in parameters]
        base.eval()
        drop_gathered()
        torch.clear_autocast_cache()  # an autocast around this must not use the old weights
    try:
        yield True
    finally:
        with torch.no_grad():
            base.train()
            torch._foreach_copy_([local(p) for p in parameters], [local(p) for p in training_weights])
            drop_gathered()
            torch.clear_autocast_cache()


def _tensors(params: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors of params as torch's optimizers take them: tensors, named tensors or groups."""
    for item in [params] if isinstance(params, Tensor) else params:
        if isinstance(item, dict):
            yield from _tensors(item["params"])
        else:
            yield item[1] if isinstance(item, tuple) else item
