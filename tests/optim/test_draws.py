"""Tests of the methods' random numbers."""

import itertools

import pytest
import torch

from sam_bench import ESAM
from tests.optim.problem import network, train, wrap


def test_ss_sam_draws_are_even_and_depend_on_seed():
    steps = 3000
    draws = {
        seed: [wrap(network(), "ss_sam", p=0.3, seed=seed).has_second_pass(t) for t in range(steps)] for seed in (0, 1)
    }
    for has_second_pass in draws.values():
        assert sum(has_second_pass) / steps == pytest.approx(0.3, abs=0.03)
        pairs = itertools.pairwise(has_second_pass)
        assert sum(a and b for a, b in pairs) / (steps - 1) == pytest.approx(0.3**2, abs=0.02)
    assert sum(a == b for a, b in zip(*draws.values(), strict=True)) / steps == pytest.approx(0.58, abs=0.03)


def test_esam_masks_depend_on_seed():
    def trained_weights(seed: int) -> torch.Tensor:
        model = network()
        optimizer = ESAM(model.parameters(), torch.optim.SGD, 0.5, model=model, seed=seed, lr=0.1)
        train(model, optimizer, 2)
        return model[0].weight.detach()

    assert torch.equal(trained_weights(1), trained_weights(1))
    assert not torch.equal(trained_weights(1), trained_weights(2))
    assert trained_weights(2**32 - 1).isfinite().all()


def test_bsam_noise_has_deviation_of_posterior():
    model = network()
    optimizer = wrap(model, "bsam", examples=400)
    train(model, optimizer, 3)
    noise_of_parts = []
    for part in range(300):
        noise, scale = optimizer.ahead(part)
        assert scale({}) == 1.0
        noise_of_parts.append(noise[model[4].weight])

    s = optimizer.memory[model[4].weight]["s"]
    assert s.min() < s.max()
    standard = torch.stack(noise_of_parts) * (400 * s).sqrt()
    assert standard.mean().abs() < 0.01
    assert standard.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(optimizer.ahead(7)[0][model[4].weight], noise_of_parts[7])
