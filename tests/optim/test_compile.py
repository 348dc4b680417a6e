"""Tests of torch.compile around a step and around a method's arithmetic: no graph break in our code, equal results."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.torch_version import TorchVersion

import sam_bench
from sam_bench.optim.gradients import real
from tests.optim.problem import PERTURBING, batch, finish_closure, flat_weights, network, wrap

OUR_FOLDER = str(Path(sam_bench.__file__).parent)

#: Methods that differ in how they take a step.
DIFFERENT = ["sgd", "gsam", "looksam", "msam", "sampa", "bsam", "esam"]


def compute_loss(model, optimizer, x, y, examples=slice(None)) -> torch.Tensor:
    """Compute the loss and its gradients, as a closure does."""
    losses = F.cross_entropy(model(x[examples]), y[examples], reduction="none")
    if losses.requires_grad:
        optimizer.zero_grad()
    return finish_closure(optimizer, losses)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "fused"), [*((name, True) for name in DIFFERENT), ("gsam", False)])
def test_compiled_step_breaks_in_torch_code_only(name, fused):
    model, other = network(), network()
    optimizer, twin = wrap(model, name, fused=fused), wrap(other, name, fused=fused)

    def train_step(model, optimizer, x, y):
        return optimizer.step(functools.partial(compute_loss, model, optimizer, x, y))

    for t in range(2):
        train_step(model, optimizer, *batch(t))
        train_step(other, twin, *batch(t))
    torch._dynamo.reset()
    explanation = torch._dynamo.explain(train_step)(model, optimizer, *batch(2))
    train_step(other, twin, *batch(2))
    torch._dynamo.reset()
    torch.testing.assert_close(flat_weights(model), flat_weights(other), rtol=0, atol=1e-12)

    if TorchVersion(torch.__version__) < "2.13":
        return  # older versions break elsewhere, or leave the step to Python

    # ESAM draws random numbers in `generator_of_step`. "step_unsupported" names a frame of ours in which Dynamo cannot
    # resume after a break in torch's code, not the cause of that break.
    breaks_of_ours = [
        reason
        for reason in explanation.break_reasons
        if reason.user_stack[-1].filename.startswith(OUR_FOLDER)
        and reason.user_stack[-1].name != "generator_of_step"
        and reason.reason != "step_unsupported"
    ]
    assert explanation.graph_count > 1
    assert not breaks_of_ours, breaks_of_ours


@pytest.mark.parametrize("name", [name for name in PERTURBING if name != "esam"])
def test_arithmetic_of_method_is_one_graph(name):
    model = network()
    optimizer = wrap(model, name)
    parameters = list(model.parameters())
    g, h = ([torch.randn(p.shape, dtype=p.dtype) for p in parameters] for _ in range(2))

    def arithmetic(g, h):
        w = [real(p) for p in parameters]
        memory = optimizer._recall(parameters)
        weights = {"weights": w} if optimizer.needs_weights else {}
        if not optimizer.two_passes:
            return optimizer.combine_single(g, **memory, **weights)
        names = {"names": [name for name, _ in model.named_parameters()]} if optimizer.needs_names else {}
        return (
            optimizer.direction(w, g, **memory, **names),
            optimizer.combine(g, h, **memory, **weights),
            optimizer.update_state(g, h, **memory, **weights),
        )

    with torch.no_grad():
        expected = arithmetic(g, h)
        torch._dynamo.reset()
        compiled = torch.compile(arithmetic, backend="eager", fullgraph=True)(g, h)
        torch._dynamo.reset()
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-12)
