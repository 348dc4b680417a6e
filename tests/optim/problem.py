"""A small float64 problem on which engine and reference take the same steps."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.registry import METHODS, method

OPTIONS = {"asam_official": {"eta": 0.01}, "gsam": {"alpha": 0.4, "adaptive": True}}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 10)
    ).to(dtype)


def batch(t: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + t)
    return torch.randn(12, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 10, (12,), generator=generator)


def wrap(model: nn.Module, name: str, rho: float = 0.05, base=torch.optim.SGD, fused: bool = True, **changes):
    """The method on a base optimizer, over all parameters; `changes` are of the method's options or the base's."""
    options = {key: changes.pop(key, value) for key, value in OPTIONS.get(name, {}).items()}
    batchnorm = changes.pop("batchnorm", "clean")
    settings = (SGD if base is torch.optim.SGD else {}) | changes
    optimizer = base(model.named_parameters(), fused=fused, **settings)
    return SharpnessAware(optimizer, method(name, **options), rho=rho, model=model, batchnorm=batchnorm)


def closure_for(model: nn.Module, optimizer: torch.optim.Optimizer, t: int = 0) -> Callable[[], Tensor]:
    dtype = next(model.parameters()).dtype
    images, labels = batch(t, dtype)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    return closure


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    return [optimizer.step(closure_for(model, optimizer, t)).item() for t in range(first, first + steps)]


def oracle(model: nn.Module, t: int):
    """Loss and gradient at any weights, as the reference takes them: through torch, but not through the engine."""
    images, labels = batch(t)

    def evaluate(w: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        tensors = {name: torch.tensor(value, requires_grad=True) for name, value in w.items()}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        loss = F.cross_entropy(functional_call(model, {**tensors, **buffers}, (images,)), labels)
        gradients = torch.autograd.grad(loss, list(tensors.values()))
        return loss.item(), {name: g.numpy() for name, g in zip(tensors, gradients, strict=True)}

    return evaluate


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def state(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Tensor]:
    """Everything that a step may change: weights, running statistics, the base optimizer's state."""
    found = {name: value.clone() for name, value in model.state_dict().items()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            if value is not None:
                found[f"{name}.{key}"] = torch.as_tensor(value).clone()
    return found


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


PERTURBING = [name for name, entry in METHODS.items() if entry.perturbs]
