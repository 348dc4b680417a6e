"""The engine on a GPU: the same steps, and no waiting for the device within one."""

import pytest
import torch

from sam_bench.optim.registry import METHODS
from tests.optim.problem import CUT, closure_for, flat, network, train, wrap

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("esam", "bsam")])  # drawn on the device
def test_steps_on_the_gpu_equal_those_on_the_cpu(name):
    models = [network().to(device) for device in ("cuda", "cpu")]
    for model in models:
        optimizer = wrap(model, name)
        train(model, optimizer, 10)
        assert optimizer.skipped.item() == 0
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), rtol=0, atol=1e-10)


WITHOUT_WAITING = [name for name, entry in METHODS.items() if not entry.cls.gradient_decides]
"""Methods whose step the host need not decide on."""


def without_waiting(optimizer, closures, scaler=None) -> None:
    """Steps of which only the first, which creates the base's state, may wait for the device."""
    for t, closure in enumerate(closures):
        torch.cuda.set_sync_debug_mode("error" if t else "default")
        try:
            optimizer.step(closure, scaler=scaler)
            if scaler is not None:
                scaler.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_a_step_never_waits_for_the_device(name, fused):
    model = network().to("cuda")
    optimizer = wrap(model, name, fused=fused)
    without_waiting(optimizer, [closure_for(model, optimizer, t) for t in range(4)])
    if name in CUT:
        halves = [[closure_for(model, optimizer, t, half) for half in (slice(0, 6), slice(6, 12))] for t in range(4)]
        without_waiting(optimizer, halves)
    assert optimizer.skipped.item() == 0


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_loss_scaling_never_waits_for_the_device_and_follows_single_precision(name):
    def weights_after(half: bool) -> torch.Tensor:
        model = network(dtype=torch.float32).to("cuda")
        optimizer = wrap(model, name)
        scaler = torch.amp.GradScaler("cuda", init_scale=256.0, enabled=half)
        precision = torch.float16 if half else None
        closures = [
            closure_for(model, optimizer, t, backward=lambda loss: scaler.scale(loss).backward(), autocast=precision)
            for t in range(6)
        ]
        without_waiting(optimizer, closures, scaler)
        assert optimizer.skipped.item() == 0
        return flat(model)

    start = flat(network(dtype=torch.float32).to("cuda"))
    single, half = weights_after(False), weights_after(True)
    assert (single - half).norm() < 0.05 * (single - start).norm()
