"""Tests of steps on a GPU: they equal those on the CPU, and do not wait for the device."""

import pytest
import torch

from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import CUT, closure_for, flat_weights, network, train, wrap

pytestmark = pytest.mark.cuda

#: Methods whose steps need no decision of the host.
WITHOUT_WAITING = [name for name in METHODS if not method(name).gradient_decides]


def step_without_waiting(optimizer, closures, scaler=None) -> None:
    """Take a step with each closure; fail if one waits for the device, except the first, which creates state."""
    for t, closure in enumerate(closures):
        torch.cuda.set_sync_debug_mode("error" if t else "default")
        try:
            optimizer.step(closure, scaler=scaler)
            if scaler is not None:
                scaler.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("esam", "bsam")])  # drawn on the device
def test_steps_on_gpu_equal_cpu(name):
    models = [network().to(device) for device in ("cuda", "cpu")]
    for model in models:
        optimizer = wrap(model, name)
        train(model, optimizer, 10)
        assert optimizer.skipped.item() == 0
    for on_gpu, on_cpu in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(on_gpu.detach().cpu(), on_cpu.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_step_does_not_wait(name, fused):
    model = network().to("cuda")
    optimizer = wrap(model, name, fused=fused)
    step_without_waiting(optimizer, [closure_for(model, optimizer, t) for t in range(4)])
    if name in CUT:
        halves = [[closure_for(model, optimizer, t, half) for half in (slice(0, 6), slice(6, 12))] for t in range(4)]
        step_without_waiting(optimizer, halves)
    assert optimizer.skipped.item() == 0


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_scaled_step_does_not_wait_or_lose_precision(name):
    def train_six_steps(half: bool) -> torch.Tensor:
        model = network(dtype=torch.float32).to("cuda")
        optimizer = wrap(model, name)
        scaler = torch.amp.GradScaler("cuda", init_scale=256.0, enabled=half)
        autocast = torch.float16 if half else None
        closures = [
            closure_for(model, optimizer, t, backward=lambda loss: scaler.scale(loss).backward(), autocast=autocast)
            for t in range(6)
        ]
        step_without_waiting(optimizer, closures, scaler)
        assert optimizer.skipped.item() == 0
        return flat_weights(model)

    start = flat_weights(network(dtype=torch.float32).to("cuda"))
    single, half = train_six_steps(False), train_six_steps(True)
    assert (single - half).norm() < 0.05 * (single - start).norm()
