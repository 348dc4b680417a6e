"""Tests of settings with which one method is another one, or the base optimizer."""

import pytest
import torch

from sam_bench.optim.registry import METHODS
from tests.optim.problem import AHEAD, SGD, TWICE, assert_equal, closure_for, flat_weights, network, train, wrap

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])

#: A method and options with which it is another method with its options.
LIMITS = {
    "GSAM, α = 0, on SAM": ("gsam", {"alpha": 0.0, "adaptive": False}, "sam", {}),
    "GSAM, α = 0, on ASAM": ("gsam", {"alpha": 0.0, "adaptive": True}, "asam", {}),
    "coupled WSAM, γ = 0.5": ("wsam", {"decouple": False, "gamma": 0.5}, "sam", {}),
    "coupled WSAM, γ = 0": ("wsam", {"decouple": False, "gamma": 0.0}, "sgd", {}),
    "decoupled WSAM, γ = 0": ("wsam", {"gamma": 0.0}, "sgd", {}),
    "GNP, b = 1": ("gnp", {"b": 1.0}, "sam", {}),
    "GNP, b = 0": ("gnp", {"b": 0.0}, "sgd", {}),
    "decoupled WSAM without momentum": ("wsam", {"momentum": 0.0}, "wsam", {"decouple": False, "momentum": 0.0}),
    "GNP as WSAM": ("gnp", {"b": 0.25}, "wsam", {"decouple": False, "gamma": 0.2}),
    "LookSAM, k = 1": ("looksam", {"k": 1}, "sam", {}),
    "SAM every k, k = 1": ("sam_every_k", {"k": 1}, "sam", {}),
    "VaSSO, θ = 1": ("vasso", {"theta": 1.0}, "sam", {}),
    "F-SAM, σ = 0": ("fsam", {"sigma": 0.0}, "sam", {}),
    "ESAM, β = γ = 1": ("esam", {"beta": 1.0, "gamma": 1.0}, "sam", {}),
    "WASAM": ("wasam", {}, "sam", {}),
    "SANER, α = 0": ("saner", {"alpha": 0.0}, "sam", {}),
    "SS-SAM, p = 1": ("ss_sam", {"p": 1.0}, "sam", {}),
    "SS-SAM, p = 0": ("ss_sam", {"p": 0.0}, "sgd", {}),
    "AE-SAM, low thresholds": ("ae_sam", {"lambda_1": -1e9, "lambda_2": -1e9}, "sam", {}),
    "AE-SAM, high thresholds": ("ae_sam", {"lambda_1": 1e9, "lambda_2": 1e9}, "sgd", {}),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limit_of_method_is_another_method(case):
    name, options, other, other_options = LIMITS[case]
    a, b = network(), network()
    first, second = wrap(a, name, rho=0.5, **options), wrap(b, other, rho=0.5, **other_options)
    assert train(a, first, 10) == pytest.approx(train(b, second, 10), abs=1e-12)
    for key, value in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[key], value, rtol=0, atol=1e-12)


@FUSED
@pytest.mark.parametrize("name", [name for name in METHODS if name not in AHEAD])
def test_radius_zero_is_base_bit_for_bit(name, fused):
    model, plain = network(), network()
    # By default ESAM's second pass is on some of the examples, whatever the radius.
    options = {"gamma": 1.0} if name == "esam" else {}
    optimizer = wrap(model, name, rho=0.0, fused=fused, **options)
    base = torch.optim.SGD(plain.parameters(), fused=fused, **SGD)
    for t in range(5):
        train(model, optimizer, 1, first=t)
        closure_for(plain, base, t)()
        base.step()

    assert_equal(dict(model.state_dict()), dict(plain.state_dict()))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], base.state[q]["momentum_buffer"])


@FUSED
@pytest.mark.parametrize("name", TWICE)
def test_before_start_is_base_bit_for_bit(name, fused):
    model, plain = network(), network()
    optimizer = wrap(model, name, fused=fused, start=4)
    base = wrap(plain, "sgd", fused=fused)
    for t in range(4):
        assert not optimizer.next_has_second_pass
        assert train(model, optimizer, 1, first=t) == train(plain, base, 1, first=t)
    assert_equal(model.state_dict(), plain.state_dict())
    assert optimizer.passes == 4

    assert optimizer.next_has_second_pass
    losses, base_losses = train(model, optimizer, 1, first=4), train(plain, base, 1, first=4)
    assert (losses == base_losses) == (name not in AHEAD)
    assert optimizer.passes > 5
    assert not torch.equal(flat_weights(model), flat_weights(plain))
