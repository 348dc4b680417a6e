"""Tests of Lookahead, against a plain computation in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench.optim.lookahead import Lookahead
from sam_bench.optim.registry import method

STEPS = 13


def network() -> nn.Module:
    """Return a network with BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def drift(model: nn.Module, seed: int) -> None:
    """Change all weights and statistics, as a step of training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            change = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.add_(change if tensor.is_floating_point() else 1)


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all weights and statistics."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("every", [1, 5])
def test_lookahead_equals_plain_rule(every):
    model, other = network(), network()
    lookahead = Lookahead.of(model, STEPS, every=every, decay=0.95)
    mean = values(other)

    for t in range(1, STEPS + 1):
        drift(model, t)
        lookahead.update()

        drift(other, t)
        a = 0.95**every * (t / STEPS) ** 3
        for name, w in other.state_dict().items():
            if w.is_floating_point() and t % every == 0:
                mean[name] = a * mean[name] + (1 - a) * w
                w.copy_(mean[name])
            if w.is_floating_point() and t == STEPS:
                w.copy_(mean[name])

        for name, w in model.state_dict().items():
            torch.testing.assert_close(w, other.state_dict()[name], rtol=1e-12, atol=1e-14)


def test_lookahead_at_end_leaves_out_later_steps():
    model = network()
    lookahead = Lookahead.of(model, steps=7, every=5)
    for t in range(1, 8):
        drift(model, t)
        lookahead.update()
        if t == 5:
            after_five = [p.clone() for p in model.parameters()]
    assert all(map(torch.equal, model.parameters(), after_five))


def test_lookahead_restored_continues_bit_for_bit():
    model = network()
    lookahead = Lookahead.of(model, STEPS, every=2)
    for t in range(1, 6):
        drift(model, t)
        lookahead.update()
    other = copy.deepcopy(model)
    restored = Lookahead.of(other, STEPS, every=2)
    restored.load_state_dict(lookahead.state_dict())

    for t in range(6, STEPS + 1):
        drift(model, t)
        lookahead.update()
        drift(other, t)
        restored.update()

    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_lookahead_of_other_model_is_refused():
    lookahead = Lookahead.of(network(), STEPS)
    with pytest.raises(ValueError, match="mean of other tensors"):
        lookahead.load_state_dict(Lookahead.of(nn.Linear(2, 2), STEPS).state_dict())


@pytest.mark.parametrize(
    ("options", "match"), [({"every": 0}, "every=0"), ({"steps": 0}, "steps=0"), ({"decay": 1.0}, "decay=1.0")]
)
def test_lookahead_outside_range_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Lookahead.of(network(), **{"steps": STEPS} | options)


@pytest.mark.parametrize("name", ["sam", "asam", "gsam", "msam"])
def test_lookahead_averages_unperturbed_weights(name):
    model = network()
    optimizer = method(name)(model.parameters(), torch.optim.SGD, rho=0.5, model=model, lr=0.1, momentum=0.9)
    lookahead = Lookahead.of(model, STEPS, every=1)
    mean = [p.detach().clone() for p in model.parameters()]
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for t in range(1, STEPS):
        optimizer.step(closure)

        unperturbed = [p.detach().clone() for p in model.parameters()]
        buffers = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
        lookahead.update()

        a = 0.95 * (t / STEPS) ** 3
        mean = [a * m + (1 - a) * w for m, w in zip(mean, unperturbed, strict=True)]
        for p, m in zip(model.parameters(), mean, strict=True):
            torch.testing.assert_close(p.detach(), m, rtol=1e-12, atol=1e-14)
        assert all(
            torch.equal(optimizer.state[p]["momentum_buffer"], b)
            for p, b in zip(model.parameters(), buffers, strict=True)
        )
