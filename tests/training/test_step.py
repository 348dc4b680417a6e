"""A step on a batch: in micro-batches, in parts, in half precision."""

import pytest
import torch
from torch import nn

from sam_bench.data.batches import Batch
from sam_bench.optim.registry import METHODS, method
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.step import Step
from tests.optim.problem import ARGUMENTS, CUT, TWICE

HARDWARE, ALONE = Hardware(torch.device("cpu"), "fp32"), Processes("cpu")


def after_steps(name: str, m: int | None = None, micro: int | None = None, count: int = 3):
    """Weights, mean loss and error after a few steps on a network without normalisation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, 10)).double()
    base = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    optimizer = method(name)(model.parameters(), base, model=model, **ARGUMENTS.get(name, {}))
    step = Step(model, optimizer, HARDWARE, ALONE, 0.1, m, micro)
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
def test_micro_batches_take_the_step_of_the_whole_batch(name, micro):
    whole, cut = after_steps(name), after_steps(name, micro=micro)
    torch.testing.assert_close(cut[0], whole[0], rtol=0, atol=1e-12)
    assert cut[1:] == pytest.approx(whole[1:])


@pytest.mark.parametrize("name", [name for name in TWICE if name in CUT and name != "sam_on"])
def test_parts_have_perturbations_of_their_own(name):
    whole, parts, all_of_it = after_steps(name), after_steps(name, m=4), after_steps(name, m=10)
    assert torch.equal(whole[0], all_of_it[0])
    assert not torch.allclose(whole[0], parts[0], rtol=0, atol=1e-9)


def test_the_loss_is_the_first_passes_mean_over_all_examples():
    once, parts = after_steps("sam", count=1), after_steps("sam", m=4, count=1)
    assert parts[1:] == pytest.approx(once[1:])
