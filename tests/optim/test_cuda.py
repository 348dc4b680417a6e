"""The engine on a GPU: the same steps, and no waiting for the device within one."""

import pytest
import torch
import torch.nn.functional as F

from sam_bench.optim.registry import METHODS
from tests.optim.problem import batch, network, wrap

pytestmark = pytest.mark.cuda


def steps(name: str, device: str, count: int, sync_is_error: bool = False) -> list[torch.Tensor]:
    model = network().to(device)
    optimizer = wrap(model, name, rho=0.5)
    batches = [tuple(tensor.to(device) for tensor in batch(t)) for t in range(count)]
    for t, (images, labels) in enumerate(batches):

        def closure(images=images, labels=labels):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        if sync_is_error and t:
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step(closure)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.skipped.item() == 0
    return [p.detach().cpu() for p in model.parameters()]


@pytest.mark.parametrize("name", METHODS)
def test_steps_on_the_gpu_equal_those_on_the_cpu(name):
    for ours, theirs in zip(steps(name, "cuda", 10), steps(name, "cpu", 10), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_never_waits_for_the_device(name):
    steps(name, "cuda", 3, sync_is_error=True)
