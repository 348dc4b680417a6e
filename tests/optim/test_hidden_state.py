"""What an optimizer cannot see is refused: shards that look whole, optimizers inside optimizers, static graphs."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from sam_bench import SAM
from sam_bench.optim.gradients import add
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import batch, closure_for, flat, network, wrap


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1_is_refused_when_made(one_process, use_orig_params):
    model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="fully_shard"):
        SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "_is_flat_param", "ds_id", "tensor_model_parallel"])
def test_step_refuses_parameters_sharded_late(mark):
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.step(closure_for(model, optimizer, 0))
    setattr(next(model.parameters()), mark, True)
    before = flat(model)
    with pytest.raises(ValueError, match="sharded"):
        optimizer.step(closure_for(model, optimizer, 1))
    assert torch.equal(before, flat(model))


@pytest.mark.parametrize("name", METHODS)
def test_static_graph_is_refused_with_own_perturbations(one_process, name):
    model = DistributedDataParallel(network(), static_graph=True)
    if method(name).two_passes:
        with pytest.raises(ValueError, match="sync_perturbation=True"):
            wrap(model, name)
    else:
        assert wrap(model, name).parallel is model


def test_static_graph_trains_with_one_perturbation(one_process):
    models = [DistributedDataParallel(network(), static_graph=static) for static in (True, False)]
    for model in models:
        optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1, sync_perturbation=True)
        for t in range(3):
            optimizer.step(closure_for(model, optimizer, t))
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_static_graph_declared_late_is_refused(one_process):
    model = DistributedDataParallel(network())
    optimizer = SAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
    model.static_graph = True
    with pytest.raises(ValueError, match="static_graph"):
        optimizer.step(closure_for(model, optimizer, 0))


class Holding(torch.optim.SGD):
    """An optimizer that keeps others inside, as Lookahead, ZeroRedundancyOptimizer and the like do."""

    def __init__(self, params, place, lr: float = 0.1):
        params = list(params)
        super().__init__(params, lr)
        self.inside = place(torch.optim.SGD(params, lr, momentum=0.9))


@pytest.mark.parametrize("place", [lambda x: x, lambda x: [x], lambda x: (x,), lambda x: {"inner": x}])
def test_base_with_an_optimizer_inside_is_refused(place):
    model = network()
    with pytest.raises(ValueError, match="Holding keeps another optimizer inside"):
        SAM(model.parameters(), Holding(model.parameters(), place), model=model)


def test_base_that_shares_the_inner_state_is_taken():
    model = network()
    base = Holding(model.parameters(), lambda x: x)
    base.inside.state = base.state
    assert SAM(model.parameters(), base, model=model).base_optimizer is base


class Moments(torch.optim.Optimizer):
    """Momentum kept in a dtype of its own, with a mask of integers beside."""

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
def test_state_of_another_dtype_resumes_bit_for_bit(dtype):
    def make(seed: int):
        model = network(seed)
        return model, SAM(model.parameters(), Moments(model.parameters(), dtype), model=model)

    model, optimizer = make(0)
    for t in range(3):
        optimizer.step(closure_for(model, optimizer, t))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, resumed = make(1)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert {x.dtype for state in resumed.state.values() for x in state.values()} == {dtype, torch.int8}
    for t in range(3, 6):
        optimizer.step(closure_for(model, optimizer, t))
        resumed.step(closure_for(again, resumed, t))
    assert torch.equal(flat(model), flat(again))


def test_state_dict_names_other_dtypes_only_if_there_are_any():
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.step(closure_for(model, optimizer, 0))
    assert set(optimizer.state_dict()["sharpness_aware"]) == {"steps", "passes", "skipped", "memory", "method"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("returned", ["loss", "None"])
def test_closure_without_gradients_changes_nothing(name, returned):
    model = network()
    optimizer = wrap(model, name)
    optimizer.step(closure_for(model, optimizer, 0))
    before = copy.deepcopy([flat(model), optimizer.state_dict()])

    def without_backward(*_):
        optimizer.zero_grad()
        loss = model(batch()[0]).sum()
        return loss if returned == "loss" else None

    with pytest.warns(UserWarning, match="backward"):
        loss = optimizer.step(without_backward)
    assert (loss is None) == (returned == "None")
    assert torch.equal(before[0], flat(model))
    assert before[1]["sharpness_aware"]["steps"] == optimizer.steps == 1
    assert before[1]["sharpness_aware"]["passes"] == optimizer.passes
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        optimizer.step(without_backward)


def test_closure_without_gradients_in_its_second_call_is_refused():
    model = network()
    optimizer = wrap(model, "sam")
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(batch()[0]).sum()
        calls.append(None)
        if len(calls) == 1:
            loss.backward()
        return loss

    before = flat(model)
    with pytest.raises(ValueError, match="backward"):
        optimizer.step(closure)
    assert torch.equal(before, flat(model))


class VarianceOnly(nn.Module):
    """A layer with a running variance and no running mean, as EvoNorm-B0."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.ones(6, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.var(0, unbiased=False) if self.training else getattr(self, self.name)
        if self.training:
            getattr(self, self.name).lerp_(variance.detach(), 0.1)
        return x / (variance + 1e-5).sqrt()


def spectral(old: bool) -> nn.Module:
    layer = nn.Linear(6, 6).double()
    return nn.utils.spectral_norm(layer) if old else nn.utils.parametrizations.spectral_norm(layer)


LAYERS = {
    "running variance": lambda: VarianceOnly("running_var"),
    "moving variance": lambda: VarianceOnly("moving_variance"),
    "spectral norm": lambda: spectral(old=False),
    "old spectral norm": lambda: spectral(old=True),
    "batch norm": lambda: nn.BatchNorm1d(6).double(),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_statistics_are_those_of_the_clean_pass(layer):
    torch.manual_seed(0)
    x = torch.randn(16, 6, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 6).double(), LAYERS[layer](), nn.Tanh())
    clean = copy.deepcopy(model)
    clean(x)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=2.0, model=model, lr=0.1)

    def closure(bad: bool = False):
        optimizer.zero_grad()
        loss = model(x).square().mean() * (float("nan") if bad else 1.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), clean.buffers(), strict=True))
    before = [buffer.clone() for buffer in model.buffers()]
    optimizer.step(lambda: closure(bad=True))
    assert optimizer.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_step_after_one_without_gradients_is_as_if_it_had_not_been(name):
    model, other = network(), network()
    optimizer, twin = wrap(model, name), wrap(other, name)
    for t in range(3):
        optimizer.step(closure_for(model, optimizer, t))
        twin.step(closure_for(other, twin, t))
        if t == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step(lambda *_: None)
    assert torch.equal(flat(model), flat(other))


def test_frozen_parameter_is_not_perturbed_by_msam():
    model = network()
    optimizer = wrap(model, "msam")
    optimizer.step(closure_for(model, optimizer, 0))
    frozen, *_ = model.parameters()
    frozen.requires_grad_(False)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append(frozen.clone())
        x, y = batch(1)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    before = frozen.clone()
    optimizer.step(closure)
    assert torch.equal(seen[0], before)


def test_ae_sam_decides_through_a_wrapper_with_a_copied_dict():
    model, other = network(), network()
    optimizer, twin = wrap(model, "ae_sam"), wrap(other, "ae_sam")
    wrapper = object.__new__(type(optimizer))
    wrapper.__dict__ = dict(optimizer.__dict__)
    for t in range(3):
        for network_, first, second in ((model, wrapper, optimizer), (other, twin, twin)):
            x, y = batch(t)
            torch.nn.functional.cross_entropy(network_(x), y).backward()
            if first.first_step(zero_grad=True):
                torch.nn.functional.cross_entropy(network_(x), y).backward()
            second.second_step(zero_grad=True)
    assert optimizer.averages.tolist() == twin.averages.tolist() != [0, 0]
    assert torch.equal(flat(model), flat(other))


def test_part_of_weight_one_is_added_to_a_total():
    p = torch.zeros(2, dtype=torch.float64)
    total = add({p: torch.full_like(p, 1e-12)}, {p: torch.ones_like(p)}, 1.0)
    assert total[p].tolist() == [1 + 1e-12] * 2
    assert add({}, {p: torch.ones_like(p)}, 1.0)[p].tolist() == [1.0, 1.0]


class AbsoluteMean(SAM):
    """A method that keeps |g| of each part."""

    keeps_gradient = True

    def of_part(self, g):
        return torch._foreach_abs(g)

    def combine(self, g, h, **memory):
        return torch._foreach_add(g, h)


def test_of_part_is_used_by_half_steps_as_by_closures():
    model, other = network(), network()
    optimizer, twin = (AbsoluteMean(m.parameters(), torch.optim.SGD, lr=0.1) for m in (model, other))
    for t in range(2):
        optimizer.step(closure_for(model, optimizer, t))
        x, y = batch(t)
        torch.nn.functional.cross_entropy(other(x), y).backward()
        twin.first_step(zero_grad=True)
        torch.nn.functional.cross_entropy(other(x), y).backward()
        twin.second_step(zero_grad=True)
    torch.testing.assert_close(flat(model), flat(other), rtol=0, atol=1e-12)
