"""Tests of parameters of all kinds: layouts, precisions, gradients in some passes only, groups, frozen ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench import GSAM, SAM
from sam_bench.optim.method import Method
from sam_bench.optim.norms import global_norm, inner_product
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import (
    SGD,
    TWICE,
    batch,
    closure_for,
    finish_closure,
    flat_weights,
    groups,
    network,
    train,
    wrap,
)

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])

#: Methods that differ in how they perturb or combine.
DIFFERENT = ["sgd", "sam", "esam", "sampa", "bsam", "msam"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "complex") for name in METHODS), *(("sam", kind) for kind in ("channels_last", "transposed"))],
)
def test_parameter_of_any_layout_is_trained(name, kind):
    torch.manual_seed(0)
    if kind == "complex":
        weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))
    elif kind == "channels_last":
        weight = nn.Parameter(torch.randn(4, 3, 2, 2).double().to(memory_format=torch.channels_last))
    else:
        weight = nn.Parameter(torch.randn(3, 4).double().t())
    model = nn.LayerNorm(3).double()
    model.register_parameter("own", weight)
    optimizer = wrap(model, name, fused=None, momentum=0.9, lr=0.01)
    strides, seen = weight.stride(), []

    def closure(examples=slice(None)):
        seen.append(weight.detach().clone())
        x = torch.arange(12.0).double().reshape(4, 3)[examples]
        losses = (model(x) ** 2).sum(1) + (weight.abs() ** 4).sum()
        if losses.requires_grad:
            optimizer.zero_grad()
        return finish_closure(optimizer, losses)

    losses = [optimizer.step(closure).mean().item() for _ in range(20)]

    assert losses[-1] < 0.7 * losses[0]
    assert weight.stride() == strides
    if name in TWICE and name != "sam_on":
        assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("only_in", [1, 2])
def test_gradient_in_one_pass_only(name, only_in):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2)).double()
    sometimes = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.register_parameter("sometimes", sometimes)
    optimizer, calls = wrap(model, name, momentum=0.9), []
    x = torch.randn(6, 5).double()

    def closure(examples=slice(None)):
        if torch.is_grad_enabled():
            calls.append(None)
        losses = model(x[examples]).square().sum(1)
        if len(calls) == only_in:
            losses = losses + sometimes.square().sum()
        if losses.requires_grad:
            optimizer.zero_grad()
        return finish_closure(optimizer, losses)

    optimizer.step(closure)

    # The last pass counts, and the first one too if the method combines both.
    first_counts = name not in TWICE or method(name).combine is not Method.combine
    expected = first_counts if only_in == 1 else name in TWICE
    assert optimizer.skipped.item() == 0
    assert (not torch.equal(sometimes.detach(), torch.ones(3).double())) == expected


def test_sparse_gradient_is_refused():
    model = nn.Embedding(5, 2, sparse=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(lambda: finish_closure(optimizer, model(torch.tensor([1])).sum()))


# Groups and frozen parameters


def test_group_added_later_is_trained():
    model = network()
    named = list(model.named_parameters())
    optimizer = GSAM(named[:-2], torch.optim.SGD, rho=0.1, rho_min=0.05, model=model, lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": named[-2:], "rho": 0.2})
    before = model[4].weight.detach().clone()
    train(model, optimizer, 2)
    assert not torch.equal(before, model[4].weight)
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups


def test_group_may_be_empty_or_added_to_base():
    model = network()
    parameters = list(model.parameters())
    optimizer = SAM([{"params": []}, {"params": parameters[:-1]}], torch.optim.SGD, model=model, **SGD)
    optimizer.base_optimizer.add_param_group({"params": parameters[-1:]})
    before = model[4].bias.detach().clone()
    train(model, optimizer, 2)
    assert not torch.equal(before, model[4].bias)


@FUSED
@pytest.mark.parametrize("name", DIFFERENT)
def test_frozen_group_is_left_alone(name, fused):
    model = network()
    for p in model[:2].parameters():
        p.requires_grad_(False)
    before = model[0].weight.clone()
    params = [{"params": list(part.named_parameters())} for part in (model[:2], model[4:])]
    optimizer = wrap(model, name, fused=fused, params=params)
    train(model, optimizer, 3)
    assert optimizer.skipped.item() == 0
    assert torch.equal(before, model[0].weight)


@FUSED
@pytest.mark.parametrize("name", DIFFERENT)
def test_frozen_and_unused_parameters_are_left_alone(name, fused):
    model = network()
    model.unused = nn.Linear(2, 2).double()
    model[1].bias.requires_grad_(False)
    grouped = groups(model)
    for group in grouped:
        group["rho"] *= 0.01
    optimizer = wrap(model, name, fused=fused, params=grouped)
    frozen = model[1].bias.detach().clone()
    unused = model.unused.weight.detach().clone()
    used_layers = nn.Sequential(*list(model.children())[:5])

    def closure(examples=slice(None)):
        images, labels = (x[examples] for x in batch())
        losses = F.cross_entropy(used_layers(images), labels, reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
        return finish_closure(optimizer, losses)

    losses = [optimizer.step(closure).item() for _ in range(10)]

    assert losses[-1] < losses[0]
    assert torch.equal(frozen, model[1].bias)
    assert torch.equal(unused, model.unused.weight)
    assert optimizer.skipped.item() == 0


def test_msam_does_not_perturb_frozen_parameter():
    model = network()
    optimizer = wrap(model, "msam")
    train(model, optimizer, 1)
    frozen = model[0].weight
    frozen.requires_grad_(False)
    before, seen = frozen.clone(), []

    def closure():
        seen.append(frozen.clone())
        return closure_for(model, optimizer, 1)()

    optimizer.step(closure)
    assert torch.equal(seen[0], before)


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inner_product_of_half_precision_is_exact(dtype):
    for value in (1e-4, 300.0):
        a = [torch.full((100,), value, dtype=dtype)]
        expected = (a[0].double() ** 2).sum().item()
        assert inner_product(a, a).item() == pytest.approx(expected, rel=1e-5)
    mixed = [torch.ones(3), torch.ones(4, dtype=torch.float64)]
    assert global_norm(mixed).item() == pytest.approx(7**0.5)


def test_weights_widened_between_steps_are_restored():
    model = network(dtype=torch.bfloat16)
    optimizer = wrap(model, "sam", fused=None, lr=0.0, momentum=0.0, weight_decay=0.0)
    train(model, optimizer, 1)

    # The weights are no longer numbers that bfloat16 has.
    for p in model.parameters():
        p.data = p.data.float() + 1e-3
    for buffer in (model[1].running_mean, model[1].running_var):
        buffer.data = buffer.data.float()
    before = flat_weights(model)
    train(model, optimizer, 1)

    assert torch.equal(flat_weights(model), before)


class NetworkWithScalar(nn.Module):
    """A network with a parameter that is a scalar, as CLIP's temperature is."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(192, 10), nn.Parameter(torch.tensor(1.5))
        self.to(dtype)

    def forward(self, images):
        return self.scale * self.layer(images.flatten(1))


@pytest.mark.parametrize(
    ("name", "options"),
    [("gsam", {}), ("looksam", {"k": 2}), ("sam", {"clip_norm": 0.1}), ("wsam", {"max_norm": 0.1})],
)
def test_scalar_in_half_precision_is_trained(name, options):
    model = NetworkWithScalar(torch.bfloat16)
    optimizer = wrap(model, name, fused=None, **options)
    before = flat_weights(model)
    train(model, optimizer, 3)
    assert not torch.equal(flat_weights(model), before)
    assert optimizer.skipped.item() == 0
