"""torch.compile around a step, and around a method's arithmetic: no graph break is ours, and the results are equal."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.torch_version import TorchVersion

import sam_bench
from sam_bench.optim.gradients import real
from sam_bench.optim.registry import METHODS
from tests.optim.problem import PERTURBING, batch, end, flat, network, wrap

OURS = str(Path(sam_bench.__file__).parent)
DIFFERENT = ["sgd", "gsam", "looksam", "msam", "sampa", "bsam", "esam"]
"""Methods that take a step in ways of their own."""


def closure(model, optimizer, x, y, chosen=slice(None)) -> torch.Tensor:
    losses = F.cross_entropy(model(x[chosen]), y[chosen], reduction="none")
    if losses.requires_grad:
        optimizer.zero_grad()
    return end(optimizer, losses)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "fused"), [*((name, True) for name in DIFFERENT), ("gsam", False)])
def test_a_loop_around_the_step_breaks_in_torchs_code_only(name, fused):
    model, other = network(), network()
    optimizer, twin = wrap(model, name, fused=fused), wrap(other, name, fused=fused)

    def train_step(model, optimizer, x, y):
        return optimizer.step(functools.partial(closure, model, optimizer, x, y))

    for t in range(2):
        train_step(model, optimizer, *batch(t))
        train_step(other, twin, *batch(t))
    torch._dynamo.reset()
    explained = torch._dynamo.explain(train_step)(model, optimizer, *batch(2))
    train_step(other, twin, *batch(2))
    torch._dynamo.reset()
    torch.testing.assert_close(flat(model), flat(other), rtol=0, atol=1e-12)
    if TorchVersion(torch.__version__) < "2.13":
        return  # older ones break elsewhere, or leave the step to Python
    ours = [reason for reason in explained.break_reasons if reason.user_stack[-1].filename.startswith(OURS)]
    ours = [reason for reason in ours if reason.user_stack[-1].name != "generator_of_step"]  # of ESAM's draws
    # A frame of ours in which Dynamo cannot resume after a break in torch's code: it names the frame, not the cause.
    ours = [reason for reason in ours if reason.reason != "step_unsupported"]
    assert explained.graph_count > 1
    assert not ours, ours


@pytest.mark.parametrize("name", [name for name in PERTURBING if name != "esam"])
def test_what_a_method_makes_of_its_gradients_is_one_graph(name):
    model = network()
    optimizer = wrap(model, name)
    entry = METHODS[name]
    parameters = list(model.parameters())
    g, h = ([torch.randn(p.shape, dtype=p.dtype) for p in parameters] for _ in range(2))

    def arithmetic(g, h):
        w = [real(p) for p in parameters]
        memory = optimizer._recall(parameters)
        weights = {"weights": w} if optimizer.needs_weights else {}
        if not entry.two_passes:
            return optimizer.combine_single(g, **memory, **weights)
        names = {"names": [name for name, _ in model.named_parameters()]} if optimizer.needs_names else {}
        direction = optimizer.direction(w, g, **memory, **names)
        return (
            direction,
            optimizer.combine(g, h, **memory, **weights),
            optimizer.update_state(g, h, **memory, **weights),
        )

    with torch.no_grad():
        expected = arithmetic(g, h)
        torch._dynamo.reset()
        found = torch.compile(arithmetic, backend="eager", fullgraph=True)(g, h)
        torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
