"""Every method's steps equal those of the plain reference, which shares no code with the engine."""

import numpy as np
import pytest
import torch

from sam_bench.optim.registry import METHODS
from tests.optim import reference
from tests.optim.problem import OPTIONS, SGD, network, oracle, train, weights, wrap

RHO = {"sam": 0.05, "asam": 0.5, "asam_official": 0.5, "gsam": 0.5}
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.05}
BASES = {"sgd": (torch.optim.SGD, reference.SGDBase, SGD), "adamw": (torch.optim.AdamW, reference.AdamWBase, ADAMW)}


def compare(name: str, base: str, fused: bool, steps: int, base_options=None, **changes) -> None:
    rho = RHO.get(name, 0.0)
    optimizer_class, reference_class, settings = BASES[base]
    settings = settings | (base_options or {})
    options = OPTIONS.get(name, {}) | changes
    model = network()
    engine = wrap(model, name, rho, optimizer_class, fused, **options, **settings)
    plain = reference.Reference(name, reference_class(**settings), rho=rho, **options)
    w = weights(model)
    for t in range(steps):
        expected, w = plain.step(w, oracle(model, t))
        assert train(model, engine, 1, first=t)[0] == pytest.approx(expected, abs=1e-12)
        for key, value in weights(model).items():
            np.testing.assert_allclose(value, w[key], rtol=0, atol=1e-12, err_msg=f"{key} after step {t + 1}")
    assert engine.passes == plain.passes
    assert engine.skipped.item() == 0


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_the_reference(name, base, fused, steps):
    compare(name, base, fused, steps)


@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_the_reference_with_nesterov_momentum(name):
    compare(name, "sgd", True, 20, base_options={"nesterov": True})


def test_gsam_on_sam_equals_the_reference():
    compare("gsam", "sgd", True, 20, adaptive=False)


def test_a_radius_and_rate_that_change_are_used_at_once():
    model = network()
    engine = wrap(model, "gsam", rho=0.5)
    plain = reference.Reference("gsam", reference.SGDBase(**SGD), **OPTIONS["gsam"])
    w = weights(model)
    for t in range(10):
        lr, rho = 0.1 / (t + 1), 0.5 - 0.04 * t
        for group in engine.param_groups:
            group.update(lr=lr, rho=rho)
        _, w = plain.step(w, oracle(model, t), rho=rho, lr=lr)
        train(model, engine, 1, first=t)
    for key, value in weights(model).items():
        np.testing.assert_allclose(value, w[key], rtol=0, atol=1e-12, err_msg=key)
