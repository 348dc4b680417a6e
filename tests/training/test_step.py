"""Tests of a step on a batch in micro-batches and in parts."""

import pytest
import torch
from torch import nn

from sam_bench.data.batches import Batch
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.step import Step
from tests.optim.problem import ARGUMENTS, CUT, TWICE

HARDWARE, PROCESSES = Hardware(torch.device("cpu"), "fp32"), Processes("cpu")


def take_steps(name: str, m: int | None = None, micro: int | None = None, count: int = 3):
    """Take steps on a network without normalisation; return the weights, the mean loss and the error."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, 10)).double()
    base = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    optimizer = method(name)(model.parameters(), base, model=model, **ARGUMENTS.get(name, {}))
    step = Step(model, optimizer, HARDWARE, PROCESSES, 0.1, m, micro)

    for t in range(count):
        generator = torch.Generator().manual_seed(t)
        images = torch.randn(10, 3, 32, 32, generator=generator).double()
        step(Batch(images, torch.arange(10).roll(t)))

    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), *step.read().values()


@pytest.mark.parametrize(
    ("name", "micro"),
    [
        *((name, 4) for name in METHODS if name not in ("esam", "sam_on")),
        *(("sam", micro) for micro in (1, 10, 99)),
    ],
)
def test_micro_batches_take_step_of_whole_batch(name, micro):
    whole, cut = take_steps(name), take_steps(name, micro=micro)
    torch.testing.assert_close(cut[0], whole[0], rtol=0, atol=1e-12)
    assert cut[1:] == pytest.approx(whole[1:])


@pytest.mark.parametrize("name", [name for name in TWICE if name in CUT and name != "sam_on"])
def test_m_perturbs_each_part(name):
    whole, three_parts, one_part = take_steps(name), take_steps(name, m=4), take_steps(name, m=10)
    assert torch.equal(whole[0], one_part[0])
    assert not torch.allclose(whole[0], three_parts[0], rtol=0, atol=1e-9)


def test_loss_of_parts_is_mean_of_first_passes():
    whole, parts = take_steps("sam", count=1), take_steps("sam", m=4, count=1)
    assert parts[1:] == pytest.approx(whole[1:])
