"""Tests of base optimizers that are not torch's: inner optimizers, state in other dtypes, unknown momentum."""

import copy

import pytest
import torch

from sam_bench import MSAM, SAM
from tests.optim.problem import closure_for, flat_weights, network, train, wrap


class OptimizerWithInner(torch.optim.SGD):
    """An optimizer that keeps another one inside, as Lookahead and ZeroRedundancyOptimizer do.

    Args:
        container: returns what holds the inner optimizer.
    """

    def __init__(self, params, container, lr: float = 0.1):
        params = list(params)
        super().__init__(params, lr)
        self.inside = container(torch.optim.SGD(params, lr, momentum=0.9))


@pytest.mark.parametrize("container", [lambda x: x, lambda x: [x], lambda x: (x,), lambda x: {"inner": x}])
def test_base_with_inner_optimizer_is_refused(container):
    model = network()
    with pytest.raises(ValueError, match="OptimizerWithInner keeps another optimizer inside"):
        SAM(model.parameters(), OptimizerWithInner(model.parameters(), container), model=model)


def test_base_that_shares_inner_state_is_taken():
    model = network()
    base = OptimizerWithInner(model.parameters(), lambda x: x)
    base.inside.state = base.state
    assert SAM(model.parameters(), base, model=model).base_optimizer is base


class MomentumInOtherDtype(torch.optim.Optimizer):
    """An optimizer with a momentum in a dtype of its own, and with signs as integers."""

    def __init__(self, params, dtype: torch.dtype, lr: float = 0.1):
        super().__init__(params, {"lr": lr})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[p]
            state.setdefault("m", torch.zeros_like(p, dtype=self.dtype))
            state.setdefault("signs", torch.zeros_like(p, dtype=torch.int8))
            state["m"].copy_(state["m"].double() * 0.9 + p.grad)
            state["signs"].copy_(p.grad.sign())
            p.sub_(0.1 * state["m"].double() + 0.01 * state["signs"].double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_state_in_other_dtype_resumes_bit_for_bit(dtype):
    def make(seed: int):
        model = network(seed)
        return model, SAM(model.parameters(), MomentumInOtherDtype(model.parameters(), dtype), model=model)

    model, optimizer = make(0)
    train(model, optimizer, 3)
    weights, saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other, resumed = make(1)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert {x.dtype for p_state in resumed.state.values() for x in p_state.values()} == {dtype, torch.int8}

    train(model, optimizer, 3, first=3)
    train(other, resumed, 3, first=3)
    assert torch.equal(flat_weights(model), flat_weights(other))


def test_state_dict_lists_other_dtypes_only_if_any():
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.step(closure_for(model, optimizer, 0))
    assert set(optimizer.state_dict()["sharpness_aware"]) == {"steps", "passes", "skipped", "memory", "method"}


def test_msam_refuses_unknown_momentum():
    class RenamedMomentum(torch.optim.SGD):
        def step(self):
            super().step()
            for p_state in self.state.values():
                p_state["velocity"] = p_state.pop("momentum_buffer")

    model = network()
    optimizer = MSAM(model.parameters(), RenamedMomentum, model=model, lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    with pytest.raises(RuntimeError, match="RenamedMomentum keeps no momentum"):
        train(model, optimizer, 1)


class ForeignFusedSGD(torch.optim.SGD):
    """An optimizer with a setting of its own called fused, which a GradScaler does not know."""

    def __init__(self, params, lr: float):
        super().__init__(params, lr)
        self.param_groups[0]["fused"] = True

    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= self.param_groups[0]["lr"] * p.grad


def test_nan_gradient_undoes_foreign_fused_base():
    model = network()
    optimizer = SAM(model.parameters(), ForeignFusedSGD(model.parameters(), lr=0.1), model=model)
    before = flat_weights(model)
    optimizer.step(closure_for(model, optimizer, backward=lambda loss: (loss * float("nan")).backward()))
    assert torch.equal(flat_weights(model), before)
    assert optimizer.skipped.item() == 1
