"""Tests of methods on Muon and schedule-free SGD, against the steps of the packages that these are from."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench import SAM, WSAM, Muon, evaluated_weights
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import ARGUMENTS, OPTIONS, assert_equal, batch, finish_closure, flat_weights, state

SGDScheduleFree = pytest.importorskip("schedulefree").SGDScheduleFree
MUON = {"lr": 0.05, "weight_decay": 0.02, "momentum": 0.9, "nesterov": True}
ADAMW = {"lr": 1e-3, "weight_decay": 0.02, "betas": (0.9, 0.95), "eps": 1e-10}
BASES = {
    "muon": (Muon, MUON | {"other_lr": 1e-3}),
    "schedule_free": (SGDScheduleFree, {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-3}),
}

#: The parameters of `network` that Muon trains by its own rule.
HIDDEN = ("3.weight", "6.weight")


def network(channels_last: bool = False, seed: int = 0) -> nn.Sequential:
    """Return a network with hidden layers of both kinds, convolution and linear."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.LayerNorm(64), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last) if channels_last else model


def wrap(model: nn.Module, name: str, base: str, rho: float = 0.05):
    """Return the method on one of `BASES`."""
    optimizer_class, base_options = BASES[base]
    options = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}) | ({"rho": rho} if METHODS[name].perturbs else {})
    options |= {"decouple": False} if name == "wsam" else {}
    return method(name)(model.named_parameters(), optimizer_class, model=model, **options, **base_options)


def closure_for(model: nn.Module, optimizer: torch.optim.Optimizer, t: int, poisoned: bool = False):
    """Return the closure of step `t`, which may make an element of the gradient NaN."""
    images, labels = batch(t, torch.float32)

    def closure(examples=slice(None)) -> Tensor:
        losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
        loss = finish_closure(optimizer, losses)
        if poisoned and losses.requires_grad:
            model[6].weight.grad[0, 0] = float("nan")
        return loss

    return closure


def train(model: nn.Module, optimizer, steps: int, first: int = 0) -> list[float]:
    """Take some steps, and return their losses."""
    return [optimizer.step(closure_for(model, optimizer, t)).item() for t in range(first, first + steps)]


def remember(model: nn.Module, optimizer, t: int) -> None:
    """Tell a method that repeats batches that step `t` was the previous one, and not poisoned."""
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, t))


def step_plainly(model: nn.Module, optimizers: list[torch.optim.Optimizer], t: int, rho: float) -> None:
    """Take a step of SAM, or with radius 0 of the base optimizers alone, without sam_bench."""
    images, labels = batch(t, torch.float32)
    parameters = list(model.parameters())
    g = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)

    if rho:
        statistics = {name: x.clone() for name, x in model.named_buffers()}
        w = [p.detach().clone() for p in parameters]
        norm = torch.cat([x.reshape(-1) for x in g]).norm()
        with torch.no_grad():
            for p, x in zip(parameters, g, strict=True):
                p.add_(rho * x / (norm + 1e-12))
        g = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
        with torch.no_grad():
            for p, x in zip(parameters, w, strict=True):
                p.copy_(x)
            for name, x in model.named_buffers():
                x.copy_(statistics[name])

    for p, x in zip(parameters, g, strict=True):
        p.grad = x.clone()
    for optimizer in optimizers:
        optimizer.step()


# Methods on both bases


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "msam"])
def test_method_trains_skips_and_resumes(name, base):
    model = network()
    optimizer = wrap(model, name, base)

    # A skipped first step leaves no trace.
    before = copy.deepcopy(dict(model.state_dict()))
    optimizer.step(closure_for(model, optimizer, 0, poisoned=True))
    assert_equal(before, dict(model.state_dict()))
    assert not optimizer.base_optimizer.state
    remember(model, optimizer, 0)

    # Neither does a later one.
    train(model, optimizer, 3)
    before, groups = copy.deepcopy((state(model, optimizer), optimizer.state_dict()["param_groups"]))
    optimizer.step(closure_for(model, optimizer, 3, poisoned=True))
    assert optimizer.skipped.item() == 2
    assert_equal(before, state(model, optimizer))
    assert optimizer.state_dict()["param_groups"] == groups
    remember(model, optimizer, 3)

    saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    losses = train(model, optimizer, 3, first=3)
    other = network(seed=3)
    resumed = wrap(other, name, base)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    remember(other, resumed, 3)
    assert train(other, resumed, 3, first=3) == losses
    assert_equal(state(model, optimizer), state(other, resumed))


@pytest.mark.parametrize("base", BASES)
def test_radius_zero_is_base_alone(base):
    a, b = network(), network()
    train(a, wrap(a, "sam", base, rho=0.0), 4)
    train(b, wrap(b, "sgd", base), 4)
    assert_equal(dict(a.state_dict()), dict(b.state_dict()))


@pytest.mark.parametrize("base", BASES)
def test_deep_copy_and_pickle_continue_alike(base):
    model = network()
    optimizer = wrap(model, "sam", base)
    train(model, optimizer, 3)
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    losses = train(model, optimizer, 3, first=3)
    for other, copied in copies:
        assert train(other, copied, 3, first=3) == losses
        assert_equal(state(model, optimizer), state(other, copied))


@pytest.mark.parametrize("base", BASES)
def test_decoupled_wsam_needs_single_rate(base):
    optimizer_class, options = BASES[base]
    with pytest.raises(ValueError, match="decouple=False"):
        WSAM(network().parameters(), optimizer_class, **options)


def test_msam_takes_muon_and_refuses_schedule_free():
    model = network()
    optimizer = wrap(model, "msam", "muon")
    train(model, optimizer, 3)
    assert optimizer.skipped.item() == 0

    other = network()
    with pytest.raises(RuntimeError, match="keeps no momentum"):
        train(other, wrap(other, "msam", "schedule_free"), 2)


def test_nan_gradient_undoes_base_group_settings():
    class CountingSGD(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["count"] = group.get("count", 0) + 1
            return super().step(closure)

    model = network()
    optimizer = SAM(model.parameters(), CountingSGD, model=model, lr=0.1, momentum=0.9)
    optimizer.step(closure_for(model, optimizer, 0, poisoned=True))
    assert "count" not in optimizer.param_groups[0]
    train(model, optimizer, 1)
    optimizer.step(closure_for(model, optimizer, 1, poisoned=True))
    assert optimizer.param_groups[0]["count"] == 1


# Muon


class MatrixConvolution(nn.Module):
    """A convolution whose weight is a matrix, which torch's Muon takes."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.shape = convolution.weight.shape
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1).clone())
        self.bias = nn.Parameter(convolution.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.view(self.shape), self.bias)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_muon_steps_equal_torchs_muon_and_adamw(rho, channels_last):
    ours, theirs = network(channels_last), network()
    theirs[3] = MatrixConvolution(theirs[3])
    named = list(theirs.named_parameters())
    muon = torch.optim.Muon([p for name, p in named if name in HIDDEN], **MUON)
    adamw = torch.optim.AdamW([p for name, p in named if name not in HIDDEN], **ADAMW)
    optimizer = wrap(ours, "sam" if rho else "sgd", "muon", rho)
    for t in range(10):
        step_plainly(theirs, [muon, adamw], t, rho)
        train(ours, optimizer, 1, first=t)

    # The Newton-Schulz iteration is in bfloat16, so another order of summation shows.
    tolerance = 0.02 if channels_last or rho else 1e-6
    moved = (flat_weights(theirs) - flat_weights(network())).norm()
    assert (flat_weights(ours) - flat_weights(theirs)).norm() < tolerance * moved
    assert ours[3].weight.stride() == network(channels_last)[3].weight.stride()


def test_muon_update_of_convolution_is_orthogonal():
    model = network()
    before = model[3].weight.detach().clone()
    step_plainly(model, [Muon(model.parameters(), lr=0.1, weight_decay=0.0)], 0, 0.0)
    update = ((before - model[3].weight) / 0.1).detach().flatten(1)
    singular_values = torch.linalg.svdvals(update)
    assert singular_values.min() > 0.6 and singular_values.max() < 1.3


def test_schedule_changes_both_rates_of_muon():
    a, b = network(), network()
    first, second = (Muon(model.parameters(), lr=0.1, other_lr=0.01, weight_decay=0.0) for model in (a, b))
    second.param_groups[0]["lr"] = 0.05
    before = flat_weights(a)
    step_plainly(a, [first], 0, 0.0)
    step_plainly(b, [second], 0, 0.0)
    torch.testing.assert_close(flat_weights(b) - before, (flat_weights(a) - before) / 2, rtol=1e-4, atol=1e-7)


def test_muon_groups_have_rates_of_their_own():
    model = network()
    hidden = {"params": [model[3].weight], "lr": 0.5}
    first, *others = [p for p in model.parameters() if p is not model[3].weight]
    groups = [{"params": [first]}, hidden, {"params": others}]
    optimizer = SAM(groups, Muon, model=model, **MUON, other_lr=1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5, 0.05]
    before = model[3].weight.detach().clone()
    train(model, optimizer, 1)
    assert (model[3].weight - before).norm() > 0.5


def test_muon_takes_matrices_named_weight():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.position = nn.Parameter(torch.ones(5, 4))
            self.scale = nn.Module()
            self.scale.weight = nn.Parameter(torch.ones(4, 1, 1))

    model = Model()
    (group,) = Muon(model.named_parameters()).param_groups
    hidden = [name for name, is_hidden in zip(group["param_names"], group["hidden"], strict=True) if is_hidden]
    assert hidden == ["layers.1.weight"]

    chosen = Muon([{"params": list(model.layers[0].parameters()), "hidden": [True, False]}])
    assert chosen.param_groups[0]["hidden"] == [True, False]


@pytest.mark.parametrize("way", ["moved", "loaded"])
def test_muon_momentum_survives_change_of_layout(way):
    def train_across_change(change: bool) -> Tensor:
        model = network()
        optimizer = wrap(model, "sgd", "muon")
        train(model, optimizer, 2)
        if change and way == "moved":
            model.to(memory_format=torch.channels_last)
        elif change:
            saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
            model = network(channels_last=True)
            optimizer = wrap(model, "sgd", "muon")
            model.load_state_dict(weights)
            optimizer.load_state_dict(saved)

        before = optimizer.state[model[3].weight]["momentum_buffer"].clone()
        train(model, optimizer, 3, first=2)
        assert not torch.equal(before, optimizer.state[model[3].weight]["momentum_buffer"])
        return flat_weights(model)

    unchanged = train_across_change(False)
    moved = (unchanged - flat_weights(network())).norm()
    assert (train_across_change(True) - unchanged).norm() < 0.1 * moved


@pytest.mark.parametrize("arguments", [{"lr": 0.0}, {"other_lr": -1.0}])
def test_muon_refuses_bad_rates(arguments):
    with pytest.raises(ValueError, match="above 0"):
        Muon(network().parameters(), **arguments)


def test_muon_refuses_network_without_hidden_layers():
    with pytest.raises(ValueError, match="hidden layer"):
        Muon(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).parameters())


# Schedule-free SGD, which evaluates other weights than it trains


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_schedule_free_steps_equal_those_of_package(rho):
    ours, theirs = network(), network()
    base = SGDScheduleFree(theirs.parameters(), **BASES["schedule_free"][1])
    base.train()
    optimizer = wrap(ours, "sam" if rho else "sgd", "schedule_free", rho)
    for t in range(10):
        step_plainly(theirs, [base], t, rho)
        train(ours, optimizer, 1, first=t)
    torch.testing.assert_close(flat_weights(ours), flat_weights(theirs), rtol=0, atol=1e-6)

    base.eval()
    with evaluated_weights(optimizer.base_optimizer) as are_others:
        assert are_others
        torch.testing.assert_close(flat_weights(ours), flat_weights(theirs), rtol=0, atol=1e-6)


def test_evaluated_weights_restores_bit_for_bit():
    model = network()
    optimizer = wrap(model, "sam", "schedule_free")
    train(model, optimizer, 3)
    before = state(model, optimizer)
    with evaluated_weights(optimizer.base_optimizer):
        average = model[0].weight.clone()
        assert not torch.equal(average, before["0.weight"])
        with evaluated_weights(optimizer.base_optimizer):
            assert torch.equal(model[0].weight, average)
    assert_equal(before, state(model, optimizer))
    train(model, optimizer, 1)


def test_evaluated_weights_of_other_base_are_its_own():
    model = network()
    before = flat_weights(model)
    with evaluated_weights(torch.optim.SGD(model.parameters(), lr=0.1)) as are_others:
        assert not are_others
        assert torch.equal(before, flat_weights(model))


def test_evaluated_weights_include_group_added_later():
    model = network()
    named = list(model.named_parameters())
    optimizer = SAM(named[:-2], SGDScheduleFree, model=model, lr=0.5)
    train(model, optimizer, 2)
    optimizer.add_param_group({"params": named[-2:]})
    train(model, optimizer, 3, first=2)
    before = flat_weights(model)
    with evaluated_weights(optimizer):
        assert (flat_weights(model) != before).float().mean() > 0.9
        with pytest.raises(RuntimeError, match="leave evaluated_weights"):
            optimizer.state_dict()
    assert torch.equal(flat_weights(model), before)


def test_autocast_around_evaluation_sees_average():
    model = network()
    optimizer = wrap(model, "sgd", "schedule_free")
    train(model, optimizer, 3)
    images, _ = batch(0, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained = model(images)
        with evaluated_weights(optimizer):
            assert not torch.equal(model(images), trained)
        torch.testing.assert_close(model(images), trained)
