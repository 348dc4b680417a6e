"""A small float64 problem on which engine and references take the same steps, and helpers to take them."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench import ESAM, SharpnessAware, frozen_statistics
from sam_bench.optim.registry import METHODS, method

#: The options of the methods that have some, beside their radius.
OPTIONS: dict[str, dict[str, Any]] = {
    "asam_official": {"eta": 0.01},
    "gsam": {"alpha": 0.4, "adaptive": True},
    "wsam": {"gamma": 0.8, "decouple": True},
    "gnp": {"b": 0.8},
    "unified_sam": {"lmbda": 0.4},
    "fsam": {"sigma": 1.0, "lmbda": 0.9},
    "vasso": {"theta": 0.6},
    "looksam": {"k": 2, "alpha": 0.7},
    "sam_every_k": {"k": 2},
    "saner": {"alpha": 0.3},
    "zsharp": {"quantile": 0.8},
    "ss_sam": {"p": 0.5},
    "ae_sam": {"delta": 0.5, "lambda_1": 0.5, "lambda_2": 0.3},
    "esam": {"beta": 0.6, "gamma": 0.5},
    "sampa": {"lmbda": 0.3},
    "bsam": {"examples": 500, "delta": 0.01, "gamma": 0.2, "beta_1": 0.8, "beta_2": 0.9},
}

#: Further arguments that a class needs. With them and the options above, SS-SAM and AE-SAM take a second pass in steps
#: 0 and 2, and none in a step soon after.
ARGUMENTS: dict[str, dict[str, Any]] = {"ss_sam": {"seed": 4}, "ae_sam": {"total_steps": 60}, "bsam": {"seed": 5}}

#: Radii of the methods for which 0.05 makes no sense.
RADII = {"asam": 0.5, "asam_official": 0.5, "gsam": 0.5, "usam": 0.02, "unified_sam": 0.03, "msam": 0.1, "bsam": 0.02}

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}

#: Methods with a radius.
PERTURBING = [name for name, entry in METHODS.items() if entry.perturbs]

#: Methods with a second pass, in the first step at least.
TWICE = [name for name in METHODS if method(name).two_passes]

#: Methods that take a batch in parts, each with a perturbation of its own.
CUT = [name for name, entry in METHODS.items() if entry.takes_parts]

#: Each method with the number of each pass that has gradients, in its first step and on that step's own batch.
PASSES = [
    (name, number)
    for name in METHODS
    for number in range(1, 3 if name in TWICE and not method(name).repeats_batch else 2)
]

#: Methods with both passes at perturbed weights.
AHEAD = [name for name in TWICE if method(name).perturbs_first]

#: Methods that a hand-written loop can step.
BY_HAND = [name for name in METHODS if name not in AHEAD]


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a network with BatchNorm, and with weights of 1, 2 and 4 dimensions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 10)
    ).to(dtype)


def batch(t: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the images, 12 × 3 × 8 × 8, and labels of step `t`."""
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(12, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 10, (12,), generator=generator)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return two parameter groups that differ in every setting of a group."""
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if n.endswith("weight")], "rho": 0.1},
        {"params": [(n, p) for n, p in named if not n.endswith("weight")], "lr": 0.01, "weight_decay": 0.0, "rho": 0.3},
    ]


def wrap(
    model: nn.Module,
    name: str,
    rho: float | None = None,
    base=torch.optim.SGD,
    fused: bool | None = True,
    params: Iterable[Any] | None = None,
    watched: bool = True,
    **changes,
) -> SharpnessAware:
    """Return the method on a base optimizer.

    Args:
        params: by default all parameters of the model.
        watched: give the model to the optimizer.
        changes: options of the method or of the base.
    """
    own = (*METHODS[name].option_names, *ARGUMENTS.get(name, {}))
    options = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}) | {key: changes.pop(key) for key in own if key in changes}
    if METHODS[name].perturbs:
        options["rho"] = RADII.get(name, 0.05) if rho is None else rho
    settings = (SGD if base is torch.optim.SGD else {}) | ({} if fused is None else {"fused": fused}) | changes
    params = model.named_parameters() if params is None else params
    return method(name)(params, base, model=model if watched else None, **options, **settings)


def finish_closure(
    optimizer: torch.optim.Optimizer, losses: Tensor, backward: Callable[[Tensor], None] = Tensor.backward
) -> Tensor:
    """Compute the gradients of the mean loss, and return what the method's closure must return."""
    if losses.requires_grad:
        backward(losses.mean())
    return losses if isinstance(optimizer, ESAM) else losses.mean()


class UnnormalisedNetwork(nn.Sequential):
    """A network without normalisation, whose gradients are the mean of those of a batch's parts."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 10))
        self.double()


def flat_weights(model: nn.Module) -> Tensor:
    """Return a copy of all weights in one tensor."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def closure_for(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    t: int = 0,
    examples: slice = slice(None),
    backward=Tensor.backward,
    autocast: torch.dtype | None = None,
) -> Callable[..., Tensor]:
    """Return the closure of step `t`; a deep copy of it together with model and optimizer works on the copies."""
    like = next(model.parameters())
    images, labels = (x[examples].to(like.device) for x in batch(t, like.dtype))
    return functools.partial(_closure, model, optimizer, images, labels, backward, autocast)


def _closure(model, optimizer, images, labels, backward, autocast, chosen=slice(None)) -> Tensor:
    dtype = next(model.parameters()).dtype
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        logits = model(images[chosen])
    losses = F.cross_entropy(logits.to(dtype), labels[chosen], reduction="none")
    if losses.requires_grad:
        optimizer.zero_grad()
    return finish_closure(optimizer, losses, backward)


def remember(model: nn.Module, optimizer: SharpnessAware, t: int) -> None:
    """Tell a method that repeats batches that step `t` was the previous one."""
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, t))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    """Take some steps, and return their losses."""
    return [optimizer.step(closure_for(model, optimizer, t)).item() for t in range(first, first + steps)]


def step_by_hand(
    model: nn.Module,
    optimizer: SharpnessAware,
    t: int,
    *,
    scaler: torch.amp.GradScaler | None = None,
    freeze: bool = False,
    zero_grad: bool = True,
    finish: Callable[[], Any] | None = None,
) -> None:
    """Take step `t` of any method as a hand-written loop does.

    Args:
        freeze: freeze running statistics in the second pass.
        zero_grad: let `first_step` and `second_step` zero the gradients, else the loop does it.
        finish: called instead of `second_step`.
    """
    images, labels = batch(t, next(model.parameters()).dtype)

    def backward(examples=slice(None)) -> Tensor:
        if not zero_grad:
            optimizer.zero_grad()
        losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
        (scaler.scale(losses.mean()) if scaler else losses.mean()).backward()
        return losses.detach()

    losses = None if optimizer.perturbs_first else backward()
    if optimizer.first_step(zero_grad=zero_grad, scaler=scaler):
        examples = slice(None)
        if optimizer.selects_examples:
            with torch.no_grad():
                perturbed_losses = F.cross_entropy(model(images), labels, reduction="none")
            examples = optimizer.choose(losses, perturbed_losses)
        with frozen_statistics(model) if freeze else contextlib.nullcontext():
            backward(examples)

    if finish is None:
        optimizer.second_step(zero_grad=zero_grad, scaler=scaler)
    else:
        finish()


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of the weights by parameter name."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def state(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Tensor]:
    """Return copies of all tensors that a step may change: weights, statistics, state of base and method."""
    copies = {name: value.clone() for name, value in model.state_dict().items()}
    for name, p in model.named_parameters():
        for key, value in (optimizer.state.get(p, {}) | optimizer.memory.get(p, {})).items():
            if value is not None:
                copies[f"{name}.{key}"] = torch.as_tensor(value).clone()
    return copies


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Check that two states are equal, bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run_two_processes(work: Callable[[int, str, str], None], folder: Path) -> list[Any]:
    """Run `work(rank, meeting_file, folder)` in two processes; return what each has saved in `folder/rank.pt`."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.spawn(work, (str(folder / "meeting"), str(folder)), nprocs=2)
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
