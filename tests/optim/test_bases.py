"""Bases that are more than a class of torch's, Muon and schedule-free SGD, against their packages' own steps."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_bench import SAM, WSAM, Muon, evaluated_weights
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import ARGUMENTS, OPTIONS, assert_equal, batch, end, flat, state

SGDScheduleFree = pytest.importorskip("schedulefree").SGDScheduleFree
MUON = {"lr": 0.05, "weight_decay": 0.02, "momentum": 0.9, "nesterov": True}
ADAMW = {"lr": 1e-3, "weight_decay": 0.02, "betas": (0.9, 0.95), "eps": 1e-10}
BASES = {
    "muon": (Muon, MUON | {"other_lr": 1e-3}),
    "schedule_free": (SGDScheduleFree, {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-3}),
}


def network(channels_last: bool = False, seed: int = 0) -> nn.Sequential:
    """With hidden layers of both kinds."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.LayerNorm(64), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last) if channels_last else model


HIDDEN = ("3.weight", "6.weight")


def wrapped(model: nn.Module, name: str, base: str, rho: float = 0.05):
    optimizer_class, options = BASES[base]
    own = OPTIONS.get(name, {}) | ARGUMENTS.get(name, {}) | ({"rho": rho} if METHODS[name].perturbs else {})
    own |= {"decouple": False} if name == "wsam" else {}
    return method(name)(model.named_parameters(), optimizer_class, model=model, **own, **options)


def closure_for(model: nn.Module, optimizer: torch.optim.Optimizer, t: int, poisoned: bool = False):
    images, labels = batch(t, torch.float32)

    def closure(chosen=slice(None)) -> Tensor:
        losses = F.cross_entropy(model(images[chosen]), labels[chosen], reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
        value = end(optimizer, losses)
        if poisoned and losses.requires_grad:
            model[6].weight.grad[0, 0] = float("nan")
        return value

    return closure


def train(model: nn.Module, optimizer, steps: int, first: int = 0) -> list[float]:
    return [optimizer.step(closure_for(model, optimizer, t)).item() for t in range(first, first + steps)]


def remember(model: nn.Module, optimizer, t: int) -> None:
    """Tell a method that repeats batches that step `t` was the one before, and not poisoned."""
    if optimizer.repeats_batch:
        optimizer.remember(closure_for(model, optimizer, t))


def take(model: nn.Module, optimizers: list[torch.optim.Optimizer], t: int, rho: float) -> None:
    """A step of SAM, or with radius 0 of the base alone, that uses nothing of ours."""
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


class Flattened(nn.Module):
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
def test_muon_takes_the_steps_of_torchs_muon_and_adamw(rho, channels_last):
    ours, theirs = network(channels_last), network()
    theirs[3] = Flattened(theirs[3])
    named = list(theirs.named_parameters())
    muon = torch.optim.Muon([p for name, p in named if name in HIDDEN], **MUON)
    adamw = torch.optim.AdamW([p for name, p in named if name not in HIDDEN], **ADAMW)
    optimizer = wrapped(ours, "sam" if rho else "sgd", "muon", rho)
    for t in range(10):
        take(theirs, [muon, adamw], t, rho)
        train(ours, optimizer, 1, first=t)
    # Newton and Schulz's iteration is in bfloat16: where sums are taken in another order, it rounds otherwise.
    greatest = 0.02 if channels_last or rho else 1e-6
    moved = (flat(theirs) - flat(network())).norm()
    assert (flat(ours) - flat(theirs)).norm() < greatest * moved
    assert ours[3].weight.stride() == network(channels_last)[3].weight.stride()


def test_muons_update_of_a_convolution_is_orthogonal_over_its_filters():
    model = network()
    before = model[3].weight.detach().clone()
    optimizer = Muon(model.parameters(), lr=0.1, weight_decay=0.0)
    take(model, [optimizer], 0, 0.0)
    update = ((before - model[3].weight) / 0.1).detach().flatten(1)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_schedule_changes_both_of_muons_learning_rates():
    a, b = network(), network()
    first, second = (Muon(model.parameters(), lr=0.1, other_lr=0.01, weight_decay=0.0) for model in (a, b))
    second.param_groups[0]["lr"] = 0.05
    before = flat(a)
    take(a, [first], 0, 0.0)
    take(b, [second], 0, 0.0)
    torch.testing.assert_close(flat(b) - before, (flat(a) - before) / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("arguments", "message"), [({"lr": 0.0}, "above 0"), ({"other_lr": -1.0}, "above 0")])
def test_muon_refuses_rates_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        Muon(network().parameters(), **arguments)


def test_muon_refuses_a_network_without_hidden_layers():
    with pytest.raises(ValueError, match="hidden layer"):
        Muon(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).parameters())


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_schedule_free_steps_are_those_of_its_package(rho):
    ours, theirs = network(), network()
    base = SGDScheduleFree(theirs.parameters(), **BASES["schedule_free"][1])
    base.train()
    optimizer = wrapped(ours, "sam" if rho else "sgd", "schedule_free", rho)
    for t in range(10):
        take(theirs, [base], t, rho)
        train(ours, optimizer, 1, first=t)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-6)
    base.eval()
    with evaluated_weights(optimizer.base_optimizer) as are_others:
        assert are_others
        torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-6)


def test_after_an_evaluation_schedule_free_weights_are_as_before_bit_for_bit():
    model = network()
    optimizer = wrapped(model, "sam", "schedule_free")
    train(model, optimizer, 3)
    before = state(model, optimizer)
    with evaluated_weights(optimizer.base_optimizer):
        average = model[0].weight.clone()
        assert not torch.equal(average, before["0.weight"])
        with evaluated_weights(optimizer.base_optimizer):
            assert torch.equal(model[0].weight, average)
    assert_equal(before, state(model, optimizer))
    train(model, optimizer, 1)


def test_a_base_that_evaluates_what_it_trains_is_left_alone():
    model = network()
    before = flat(model)
    with evaluated_weights(torch.optim.SGD(model.parameters(), lr=0.1)) as are_others:
        assert not are_others
        assert torch.equal(before, flat(model))


METHODS_ON = [name for name in METHODS if name != "msam"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS_ON)
def test_every_method_trains_skips_and_resumes(name, base):
    model = network()
    optimizer = wrapped(model, name, base)
    before = copy.deepcopy(dict(model.state_dict()))
    optimizer.step(closure_for(model, optimizer, 0, poisoned=True))
    assert_equal(before, dict(model.state_dict()))
    assert not optimizer.base_optimizer.state
    remember(model, optimizer, 0)
    train(model, optimizer, 3)
    before = copy.deepcopy((state(model, optimizer), optimizer.state_dict()["param_groups"]))
    optimizer.step(closure_for(model, optimizer, 3, poisoned=True))
    assert optimizer.skipped.item() == 2
    assert_equal(before[0], state(model, optimizer))
    assert optimizer.state_dict()["param_groups"] == before[1]
    remember(model, optimizer, 3)
    saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    losses = train(model, optimizer, 3, first=3)
    other = network(seed=3)
    resumed = wrapped(other, name, base)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    remember(other, resumed, 3)
    assert train(other, resumed, 3, first=3) == losses
    assert_equal(state(model, optimizer), state(other, resumed))


def test_momentum_sam_perturbs_along_muons_momentum_and_refuses_schedule_free_sgd():
    model = network()
    optimizer = wrapped(model, "msam", "muon")
    train(model, optimizer, 3)
    assert optimizer.skipped.item() == 0
    other = network()
    refusing = wrapped(other, "msam", "schedule_free")
    with pytest.raises(RuntimeError, match="keeps no momentum"):
        train(other, refusing, 2)


@pytest.mark.parametrize("base", BASES)
def test_a_step_of_sharpness_alone_is_refused_where_the_base_has_not_one_rate(base):
    optimizer_class, options = BASES[base]
    with pytest.raises(ValueError, match="decouple=False"):
        WSAM(network().parameters(), optimizer_class, **options)


@pytest.mark.parametrize("base", BASES)
def test_a_deep_copy_and_a_pickle_go_on_alike(base):
    model = network()
    optimizer = wrapped(model, "sam", base)
    train(model, optimizer, 3)
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    losses = train(model, optimizer, 3, first=3)
    for other, copied in copies:
        assert train(other, copied, 3, first=3) == losses
        assert_equal(state(model, optimizer), state(other, copied))


@pytest.mark.parametrize("way", ["moved", "loaded"])
def test_muons_momentum_goes_on_in_another_memory_layout(way):
    def after(change: bool) -> Tensor:
        model = network()
        optimizer = wrapped(model, "sgd", "muon")
        train(model, optimizer, 2)
        if change and way == "moved":
            model.to(memory_format=torch.channels_last)
        elif change:
            saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
            model = network(channels_last=True)
            optimizer = wrapped(model, "sgd", "muon")
            model.load_state_dict(weights)
            optimizer.load_state_dict(saved)
        before = optimizer.state[model[3].weight]["momentum_buffer"].clone()
        train(model, optimizer, 3, first=2)
        assert not torch.equal(before, optimizer.state[model[3].weight]["momentum_buffer"])
        return flat(model)

    unchanged = after(change=False)
    assert (after(change=True) - unchanged).norm() < 0.1 * (unchanged - flat(network())).norm()


def test_muon_takes_weights_that_are_matrices_and_are_called_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.position = nn.Parameter(torch.ones(5, 4))
            self.scale = nn.Module()
            self.scale.weight = nn.Parameter(torch.ones(4, 1, 1))

    model = Odd()
    optimizer = Muon(model.named_parameters())
    (group,) = optimizer.param_groups
    hidden = [name for name, flag in zip(group["param_names"], group["hidden"], strict=True) if flag]
    assert hidden == ["layers.1.weight"]
    every = Muon([{"params": list(model.layers[0].parameters()), "hidden": [True, False]}])
    assert every.param_groups[0]["hidden"] == [True, False]


def test_a_group_that_is_added_later_is_evaluated_too():
    model = network()
    named = list(model.named_parameters())
    optimizer = SAM(named[:-2], SGDScheduleFree, model=model, lr=0.5)
    train(model, optimizer, 2)
    optimizer.add_param_group({"params": named[-2:]})
    train(model, optimizer, 3, first=2)
    before = flat(model)
    with evaluated_weights(optimizer):
        assert (flat(model) != before).float().mean() > 0.9
        with pytest.raises(RuntimeError, match="leave evaluated_weights"):
            optimizer.state_dict()
    assert torch.equal(flat(model), before)


def test_an_autocast_around_an_evaluation_sees_the_average():
    model = network()
    optimizer = wrapped(model, "sgd", "schedule_free")
    train(model, optimizer, 3)
    images, _ = batch(0, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained = model(images)
        with evaluated_weights(optimizer):
            assert not torch.equal(model(images), trained)
        torch.testing.assert_close(model(images), trained)


def test_what_a_foreign_base_puts_into_its_groups_is_undone_with_the_step():
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["count"] = group.get("count", 0) + 1
            return super().step(closure)

    model = network()
    optimizer = SAM(model.parameters(), Counting, model=model, lr=0.1, momentum=0.9)
    optimizer.step(closure_for(model, optimizer, 0, poisoned=True))
    assert "count" not in optimizer.param_groups[0]
    train(model, optimizer, 1)
    optimizer.step(closure_for(model, optimizer, 1, poisoned=True))
    assert optimizer.param_groups[0]["count"] == 1


@pytest.mark.parametrize("base", BASES)
def test_radius_zero_is_the_base_alone(base):
    a, b = network(), network()
    first, second = wrapped(a, "sam", base, rho=0.0), wrapped(b, "sgd", base)
    train(a, first, 4)
    train(b, second, 4)
    assert_equal(dict(a.state_dict()), dict(b.state_dict()))


def test_groups_of_muons_have_rates_of_their_own():
    model = network()
    hidden = {"params": [model[3].weight], "lr": 0.5}
    first, *others = [p for p in model.parameters() if p is not model[3].weight]
    groups = [{"params": [first]}, hidden, {"params": others}]
    optimizer = SAM(groups, Muon, model=model, **MUON, other_lr=1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5, 0.05]
    before = model[3].weight.detach().clone()
    train(model, optimizer, 1)
    assert (model[3].weight - before).norm() > 0.5
