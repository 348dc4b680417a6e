"""A small float64 problem on which engine and reference take the same steps."""

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
from torch.func import functional_call

from sam_bench import ESAM, SharpnessAware
from sam_bench.optim.registry import METHODS, method

OPTIONS: dict[str, dict[str, Any]] = {
    "asam_official": {"eta": 0.01},
    "gsam": {"alpha": 0.4, "adaptive": True},
    "wsam": {"gamma": 0.8, "decouple": True},
    "gnp": {"b": 0.8},
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
"""Of the methods that have some, beside their radius."""

ARGUMENTS: dict[str, dict[str, Any]] = {"ss_sam": {"seed": 4}, "ae_sam": {"total_steps": 60}, "bsam": {"seed": 5}}
"""What else a class must be given. With it, and the options above, the first two take a second pass in steps 0 and 2,
and none in a step soon after."""

RADII = {"asam": 0.5, "asam_official": 0.5, "gsam": 0.5, "usam": 0.02, "msam": 0.1, "bsam": 0.02}
"""Where 0.05 is no sensible one."""

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
PERTURBING = [name for name, entry in METHODS.items() if entry.perturbs]
TWICE = [name for name, entry in METHODS.items() if entry.two_passes]
"""Methods that perturb along a gradient and look again, in the first step at least."""
CUT = [name for name, entry in METHODS.items() if entry.takes_parts]
"""Methods that take a batch in parts, each with a perturbation of its own."""
PASSES = [
    (name, number)
    for name in METHODS
    for number in range(1, 3 if name in TWICE and not method(name).repeats_batch else 2)
]
"""Methods and each of the passes with gradients of their first step, if it is on that step's own batch."""
AHEAD = [name for name in TWICE if method(name).perturbs_first]
"""Methods whose passes are both at perturbed weights."""
BY_HAND = [name for name in METHODS if name not in AHEAD]
"""Methods that a hand-written loop can step."""


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 10)
    ).to(dtype)


def batch(t: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(12, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 10, (12,), generator=generator)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups that differ in everything a group can differ in."""
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
    """The method on a base optimizer, over all parameters; `changes` are of the method's options or the base's.

    Unless `watched`, the optimizer is not told of the model.
    """
    own = (*METHODS[name].option_names, *ARGUMENTS.get(name, {}))
    options = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}) | {key: changes.pop(key) for key in own if key in changes}
    if METHODS[name].perturbs:
        options["rho"] = RADII.get(name, 0.05) if rho is None else rho
    settings = (SGD if base is torch.optim.SGD else {}) | ({} if fused is None else {"fused": fused}) | changes
    params = model.named_parameters() if params is None else params
    return method(name)(params, base, model=model if watched else None, **options, **settings)


def end(optimizer: torch.optim.Optimizer, losses: Tensor, backward: Callable[[Tensor], None] = Tensor.backward):
    """How a closure ends: with the gradients of the mean loss, and with what the method wants returned."""
    if losses.requires_grad:
        backward(losses.mean())
    return losses if isinstance(optimizer, ESAM) else losses.mean()


class Plain(nn.Sequential):
    """Without normalisation, so that a batch may be cut without a trace."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 10))
        self.double()


def flat(model: nn.Module) -> Tensor:
    """All weights, in one tensor."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def closure_for(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    t: int = 0,
    examples: slice = slice(None),
    backward=Tensor.backward,
    autocast: torch.dtype | None = None,
) -> Callable[..., Tensor]:
    """The closure of step `t`; a copy of it with its model and optimizer is theirs."""
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
    return end(optimizer, losses, backward)


def remember(model: nn.Module, optimizer: SharpnessAware, t: int) -> None:
    """Tell a method that repeats batches, after its state was loaded, that step `t` was the one before."""
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, t))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    return [optimizer.step(closure_for(model, optimizer, t)).item() for t in range(first, first + steps)]


def oracle(model: nn.Module, t: int, name: str, examples: slice = slice(None)):
    """Loss and gradient at any weights, as the reference takes them: through torch, but not through the engine."""
    images, labels = (x[examples] for x in batch(t))

    def losses_at(w: dict[str, np.ndarray], chosen) -> tuple[dict[str, Tensor], Tensor]:
        frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
        tensors = {key: torch.tensor(value, requires_grad=key not in frozen) for key, value in w.items()}
        buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
        logits = functional_call(model, {**tensors, **buffers}, (images[chosen],))
        learning = {key: x for key, x in tensors.items() if x.requires_grad}
        return learning, F.cross_entropy(logits, labels[chosen], reduction="none")

    def evaluate(w: dict[str, np.ndarray], examples=None, gradient: bool = True):
        tensors, losses = losses_at(w, slice(None) if examples is None else torch.as_tensor(examples))
        found = torch.autograd.grad(losses.mean(), list(tensors.values())) if gradient else ()
        g = {key: x.numpy() for key, x in zip(tensors, found, strict=gradient)} if gradient else None
        return (losses.detach().numpy(), g) if name == "esam" else (losses.mean().item(), g)

    return evaluate


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def state(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Tensor]:
    """Everything that a step may change: weights, running statistics, what base optimizer and method remember."""
    found = {name: value.clone() for name, value in model.state_dict().items()}
    for name, p in model.named_parameters():
        for key, value in (optimizer.state.get(p, {}) | optimizer.memory.get(p, {})).items():
            if value is not None:
                found[f"{name}.{key}"] = torch.as_tensor(value).clone()
    return found


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def found_by_two(work: Callable[[int, str, str], None], folder: Path) -> list[Any]:
    """Let two processes work, each with its rank, a file to meet at and a folder; return what each saved there."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.spawn(work, (str(folder / "meeting"), str(folder)), nprocs=2)
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
