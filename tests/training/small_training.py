"""Training of a few steps of a small network, with every method and each kind of step."""

import logging
import sys
from typing import ClassVar

import torch
from torch import nn

from sam_bench.data.batches import Batch
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from tests.optim.problem import ARGUMENTS

#: Methods whose steps can be captured.
CAPTURED = [name for name, entry in METHODS.items() if not entry.why_not_captured]

#: Every fourth batch is smaller.
STEPS = 4 * 4


class Momentum(torch.optim.Optimizer):
    """SGD with momentum, neither fused nor with counters on the host."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "momentum": 0.9})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                p.sub_(buffer * group["lr"])


#: Base optimizers, by name.
BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True),
    "not fused": Momentum,
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
}

#: Options of methods, so that their second passes come at different steps.
OPTIONS = {"looksam": {"k": 3}, "sam_every_k": {"k": 2}}

MESSAGES = logging.getLogger("sam_bench")


class SmallNetwork(nn.Sequential):
    """Network with BatchNorm, for images of 32 × 32 pixels and 10 classes."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 10)
        )


class ErrorRecordingNetwork(SmallNetwork):
    """Network that records, in each pass, the error being handled, whose frames keep the failed step's tensors."""

    errors: ClassVar[list[object]] = []

    def forward(self, x):
        self.errors.append(sys.exc_info()[1])
        return super().forward(x)


class WarningRecorder(logging.Handler):
    """Handler that keeps the texts of warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        MESSAGES.addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


def train(
    step_class,
    name,
    base="sgd",
    steps=STEPS,
    network=SmallNetwork,
    hardware=None,
    nan_steps=(),
    m=None,
    noisy_and_mixed=False,
    start=0,
    **options,
):
    """Train a few steps, each at another rate; return the state, the step and the warnings.

    Args:
        step_class: `Step` or `CapturedStep`.
        nan_steps: numbers of the steps whose images are NaN.
        noisy_and_mixed: let batches have true labels and mixup.
        start: number of the first step with a second pass.
        options: further arguments of the step.
    """
    torch.manual_seed(0)
    hardware = hardware or Hardware(torch.device("cpu"), "fp32")
    model = network().to(hardware.device).train()
    optimizer = method(name)(
        model.named_parameters(),
        BASES[base](model.named_parameters()),
        model=model,
        start=start,
        **OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}),
    )
    scaler = hardware.scaler()
    step = step_class(model, optimizer, hardware, Processes("cpu"), 0.1, m, scaler=scaler, **options)
    warnings = WarningRecorder()

    for t in range(steps):
        step.set_rates(0.1 / (t + 1), 0.5 / (t + 2) if METHODS[name].perturbs else None)
        generator = torch.Generator().manual_seed(t)
        count = 5 if t % 4 == 3 else 8
        images = torch.randn(count, 3, 32, 32, generator=generator) * (float("nan") if t in nan_steps else 1)
        labels, true_labels = torch.randint(0, 10, (2, count), generator=generator).to(hardware.device)
        mixture = labels.roll(1), torch.full((count,), 1 - t / 20, device=hardware.device)
        step(Batch(images.to(hardware.device), labels, *((true_labels, *mixture) if noisy_and_mixed else ())))

    MESSAGES.removeHandler(warnings)
    state = {"step": step.state_dict(), "optimizer": optimizer.state_dict(), "model": model.state_dict()}
    state["scaler"] = scaler.state_dict() if scaler else None
    return state, step, warnings.texts
