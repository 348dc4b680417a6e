"""The ways to step, and what can come in between: loss scaling, accumulation, failures, odd parameters."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_bench import ESAM, FSAM, GNP, GSAM, MSAM, SAM, SAMON, WSAM, VaSSO, frozen_statistics
from sam_bench.optim.method import Method
from sam_bench.optim.norms import global_norm, inner_product
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import (
    AHEAD,
    BY_HAND,
    CUT,
    PASSES,
    PERTURBING,
    RADII,
    SGD,
    TWICE,
    Plain,
    assert_equal,
    batch,
    closure_for,
    end,
    flat,
    network,
    state,
    train,
    wrap,
)
from tests.training.stand_in import written_by


def by_hand(
    model: nn.Module, optimizer, t: int, scaler=None, freeze: bool = False, zero_grad: bool = True, end=None
) -> None:
    """One step of a hand-written loop, whatever the method; `end` in the place of `second_step`."""
    images, labels = batch(t, next(model.parameters()).dtype)

    def backward(examples=slice(None)) -> torch.Tensor:
        if not zero_grad:
            optimizer.zero_grad()
        losses = F.cross_entropy(model(images[examples]), labels[examples], reduction="none")
        (scaler.scale(losses.mean()) if scaler else losses.mean()).backward()
        return losses.detach()

    before = None if optimizer.perturbs_first else backward()
    if optimizer.first_step(zero_grad=zero_grad, scaler=scaler):
        chosen = slice(None)
        if hasattr(optimizer, "choose"):
            with torch.no_grad():
                after = F.cross_entropy(model(images), labels, reduction="none")
            chosen = optimizer.choose(before, after)
        if freeze:
            with frozen_statistics(model):
                backward(chosen)
        else:
            backward(chosen)
    if end is None:
        optimizer.second_step(zero_grad=zero_grad, scaler=scaler)
    else:
        end()


@pytest.mark.parametrize(
    ("name", "start", "zero_grad"),
    [*((name, 3, True) for name in TWICE if name in BY_HAND), ("sgd", 0, False), ("sam", 0, False), ("esam", 0, True)],
)
def test_steps_by_hand_equal_steps_with_a_closure(name, start, zero_grad):
    a, b = network(), network()
    first, second = wrap(a, name, start=start), wrap(b, name, start=start)
    for t in range(6):
        first.step(closure_for(a, first, t))
        by_hand(b, second, t, zero_grad=zero_grad)
        assert_equal(state(a, first), state(b, second))
    if name != "esam":  # a hand-written loop's passes are counted whole
        assert first.passes == second.passes


@pytest.mark.parametrize("name", [name for name in BY_HAND if name not in ("msam", "esam", "sam_on")])
def test_the_context_for_running_statistics_does_what_the_model_does(name):
    a, b = network(), network()
    first, second = wrap(a, name), wrap(b, name, watched=False)
    for t in range(4):
        first.step(closure_for(a, first, t))
        by_hand(b, second, t, freeze=True)
    assert_equal(state(a, first), state(b, second))


def test_the_context_for_running_statistics_can_be_nested_and_survives_exceptions():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="out of memory"), frozen_statistics(model), frozen_statistics(model):
        model(batch()[0])
        raise RuntimeError("out of memory")
    assert_equal(before, dict(model.state_dict()))
    with frozen_statistics(model):
        train_output = model(batch()[0])
    torch.testing.assert_close(train_output, model(batch()[0]))  # within the batch it normalises as ever


def test_a_second_first_step_is_an_error_that_says_so():
    model = network()
    optimizer = wrap(model, "sam")
    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    closure_for(model, optimizer)()
    with pytest.raises(RuntimeError, match=r"first_step\(\) came between first_step\(\) and second_step\(\)"):
        optimizer.first_step()
    with pytest.raises(RuntimeError, match=r"step\(\) came between"):
        optimizer.step(closure_for(model, optimizer))
    with pytest.raises(RuntimeError, match=r"state_dict\(\) came between"):
        optimizer.state_dict()
    optimizer.second_step()


@pytest.mark.parametrize("name", BY_HAND)
def test_a_step_without_a_closure_ends_what_first_step_begins(name):
    model, other = network(), network()
    optimizer, twin = wrap(model, name), wrap(other, name)
    for t in range(3):
        by_hand(model, optimizer, t)
        by_hand(other, twin, t, zero_grad=False, end=twin.step)
    assert_equal(state(model, optimizer), state(other, twin))


@pytest.mark.parametrize("name", ["sgd", "sam", "esam", "sampa", "msam", "ae_sam"])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_closure_that_adds_to_gradients_from_before_is_refused(name, earlier):
    model = network()
    optimizer = wrap(model, name)
    train(model, optimizer, earlier)
    images, labels = batch(7)

    def accumulating(examples=slice(None)) -> torch.Tensor:
        return end(optimizer, F.cross_entropy(model(images[examples]), labels[examples], reduction="none"))

    accumulating()
    saved = copy.deepcopy(state(model, optimizer))
    with pytest.raises(ValueError, match="accumulate inside it"):
        optimizer.step(accumulating)
    present = state(model, optimizer)
    assert_equal(saved, {name: present[name] for name in saved})
    optimizer.step(accumulating)  # of what the step that failed has left, nothing is there
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(accumulating)


def test_loops_that_leave_gradients_behind_go_on():
    """Two optimizers over one model, gradients clipped for a look at their norm, gradients of the inputs."""
    model = network()
    first, second = (
        wrap(model, "sam", params=model[:1].parameters()),
        wrap(model, "gsam", params=model[1:].parameters()),
    )
    for t in range(3):
        first.step(closure_for(model, first, t))
        second.step(closure_for(model, second, t))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        F.cross_entropy(model(batch(t)[0].requires_grad_()), batch(t)[1]).backward()
    assert (first.steps, second.steps) == (3, 3)


def test_a_step_that_ends_by_hand_takes_no_other_scaler():
    model = network()
    optimizer = wrap(model, "sam")
    closure_for(model, optimizer)()
    before = flat(model)
    optimizer.first_step(zero_grad=True)
    closure_for(model, optimizer)()
    with pytest.raises(ValueError, match="same scaler"):
        optimizer.step(scaler=torch.amp.GradScaler("cpu"))
    assert torch.equal(before, flat(model))


@pytest.mark.parametrize("name", METHODS)
def test_a_second_step_that_comes_first_is_an_error_that_says_so(name):
    with pytest.raises(RuntimeError, match=r"second_step\(\) came first"):
        wrap(network(), name).second_step()


def test_a_step_without_a_closure_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="first_step"):
        wrap(network(), "sam").step()


@pytest.mark.parametrize("name", AHEAD)
def test_what_perturbs_before_both_passes_is_refused_by_hand(name):
    model = network()
    optimizer = wrap(model, name)
    closure_for(model, optimizer)()
    with pytest.raises(RuntimeError, match=r"before both of its passes: call step\(closure\)"):
        optimizer.first_step()
    optimizer.zero_grad()
    train(model, optimizer, 1)


@pytest.mark.parametrize("name", [name for name in PERTURBING if name in BY_HAND])
def test_a_step_can_be_given_up_half_way(name):
    model = network()
    optimizer = wrap(model, name)
    for t in range(2):
        by_hand(model, optimizer, t)
    before = state(model, optimizer)
    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    model(batch()[0])
    optimizer.restore()
    assert_equal(before, state(model, optimizer))


@pytest.mark.parametrize("failing_pass", [1, 2])
@pytest.mark.parametrize("name", [name for name in TWICE if name in BY_HAND])
def test_a_hand_written_loop_skips_what_is_not_finite_too(name, failing_pass):
    model = network()
    optimizer = wrap(model, name)
    for t in range(2):
        by_hand(model, optimizer, t)
    before, (images, labels) = state(model, optimizer), batch(2)
    for number in (1, 2):
        F.cross_entropy(model(images), labels).backward()
        if number == failing_pass:
            model[4].weight.grad[0, 0] = float("nan")
        optimizer.first_step(zero_grad=True) if number == 1 else optimizer.second_step(zero_grad=True)
    assert_equal(before, state(model, optimizer))
    assert optimizer.skipped.item() == 1


# Loss scaling


def scaled(scaler: torch.amp.GradScaler):
    return lambda loss: scaler.scale(loss).backward()


@pytest.mark.parametrize(
    ("name", "way", "scale"),
    [*((name, "by hand", 2.0**16) for name in BY_HAND), ("sam", "closure", 3.0), ("sampa", "closure", 3.0)],
)
def test_loss_scale_changes_nothing(name, way, scale):
    start = 3 if name in TWICE else 0
    a, b = network(), network()
    first, second = wrap(a, name, start=start), wrap(b, name, start=start)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    for t in range(8):
        first.step(closure_for(a, first, t))
        if way == "closure":
            second.step(closure_for(b, second, t, backward=scaled(scaler)), scaler=scaler)
        else:
            by_hand(b, second, t, scaler=scaler)
        scaler.update()
    assert scaler.get_scale() == 4 * scale  # it grew twice on the way
    for key, value in state(a, first).items():
        torch.testing.assert_close(state(b, second)[key], value, rtol=1e-6, atol=1e-7)  # the scale's inverse is float32


@pytest.mark.parametrize(("name", "failing_pass"), [each for each in PASSES if each[0] in TWICE])
def test_a_gradient_that_overflows_skips_once_and_shrinks_the_scale_once(name, failing_pass):
    model = network()
    always = {"lambda_1": -9.0, "lambda_2": -9.0} if name == "ae_sam" else {}  # the same batch's gradient gets shorter
    optimizer = wrap(model, name, **always)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train_step = closure_for(model, optimizer, 0, backward=scaled(scaler))
    for _ in range(2):
        optimizer.step(train_step, scaler=scaler)
        scaler.update()
    before, calls = state(model, optimizer), []

    def overflowing(*chosen):
        loss = train_step(*chosen)
        if torch.is_grad_enabled():
            calls.append(None)
            if len(calls) == failing_pass:
                model[4].weight.grad[0, 0] = float("inf")
        return loss

    optimizer.step(overflowing, scaler=scaler)
    scaler.update()
    assert scaler.get_scale() == 512
    assert optimizer.skipped.item() == 1
    assert_equal(before, state(model, optimizer))
    optimizer.step(train_step, scaler=scaler)
    scaler.update()
    assert (scaler.get_scale(), optimizer.skipped.item()) == (512, 1)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_with_loss_scaling_follows_single_precision(name):
    def weights_after(half: bool) -> torch.Tensor:
        model = network(dtype=torch.float32)
        optimizer = wrap(model, name)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, enabled=half)  # too large: the first steps overflow
        done = 0
        while done < 5:
            precision = torch.float16 if half else None
            closure = closure_for(model, optimizer, done, backward=scaled(scaler), autocast=precision)
            skipped = optimizer.skipped.item()
            optimizer.step(closure, scaler=scaler)
            scaler.update()
            if optimizer.skipped.item() > skipped:
                optimizer.steps -= 1  # the same step again, for the methods that count
            else:
                done += 1
        assert (optimizer.skipped.item() > 0) == half
        return flat(model)

    start = flat(network(dtype=torch.float32))
    single, half = weights_after(False), weights_after(True)
    greatest = 0.1 if name == "saner" else 0.02  # it halves elements where h is less than g by however little
    assert (single - half).norm() < greatest * (single - start).norm()


def test_a_scaler_that_was_not_updated_is_an_error():
    model = network()
    optimizer = wrap(model, "sam")
    scaler = torch.amp.GradScaler("cpu")
    closure = closure_for(model, optimizer, 0, backward=scaled(scaler))
    optimizer.step(closure, scaler=scaler)
    with pytest.raises(RuntimeError, match="update"):
        optimizer.step(closure, scaler=scaler)


# Accumulation


ACCUMULATING = [name for name in METHODS if name not in ("sam_on", "esam")]  # no normalisation; per-example losses


@pytest.mark.parametrize("name", ACCUMULATING)
def test_micro_batches_with_one_perturbation_equal_the_big_batch(name):
    a, b = Plain(), Plain()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step(closure_for(a, first, t))
        images, labels = batch(t)

        def closure(images=images, labels=labels):
            second.zero_grad()
            total = 0.0
            for part in (slice(0, 5), slice(5, 12)):
                loss = F.cross_entropy(b(images[part]), labels[part]) * len(labels[part]) / len(labels)
                loss.backward()
                total += loss.detach()
            return total

        second.step(closure)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ACCUMULATING if name in CUT and name not in AHEAD])
def test_equal_parts_with_a_perturbation_each_equal_the_big_batch(name):
    """Parts that hold the same images have the same perturbation, which is then the whole batch's."""
    a, b = Plain(), Plain()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step(closure_for(a, first, t))
        second.step([closure_for(b, second, t), closure_for(b, second, t), closure_for(b, second, t)])
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert second.passes == pytest.approx(first.passes)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [], [2.0, -1.0]])
def test_weights_that_do_not_fit_the_parts_are_refused(weights):
    model = network()
    optimizer = wrap(model, "sam")
    with pytest.raises(ValueError, match="2 closures"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)], weights)


# Parameters of all kinds


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "complex") for name in METHODS), *(("sam", kind) for kind in ("channels_last", "transposed"))],
)
def test_any_layout_of_parameters_trains_and_comes_back(name, kind):
    torch.manual_seed(0)
    if kind == "complex":
        weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))
    elif kind == "channels_last":
        weight = nn.Parameter(torch.randn(4, 3, 2, 2).double().to(memory_format=torch.channels_last))
    else:
        weight = nn.Parameter(torch.randn(3, 4).double().t())
    model = nn.LayerNorm(3).double()
    model.register_parameter("own", weight)
    options = {"momentum": 0.9, "lr": 0.01}
    optimizer = wrap(model, name, fused=None, **options)
    strides, seen = weight.stride(), []

    def closure(chosen=slice(None)):
        seen.append(weight.detach().clone())
        x = torch.arange(12.0).double().reshape(4, 3)[chosen]
        losses = (model(x) ** 2).sum(1) + (weight.abs() ** 4).sum()
        if losses.requires_grad:
            optimizer.zero_grad()
            losses.mean().backward()
        return losses if name == "esam" else losses.mean()

    losses = [optimizer.step(closure).mean().item() for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    assert weight.stride() == strides
    if name in TWICE and name != "sam_on":
        assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("only_in", [1, 2])
def test_a_gradient_that_appears_in_one_pass_only(name, only_in):
    """Without one in the pass that counts a parameter is left alone; both passes count where both are combined."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2)).double()
    sometimes = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.register_parameter("sometimes", sometimes)
    optimizer, calls = wrap(model, name, momentum=0.9), []
    x = torch.randn(6, 5).double()

    def closure(chosen=slice(None)):
        if torch.is_grad_enabled():
            calls.append(None)
        losses = model(x[chosen]).square().sum(1)
        if len(calls) == only_in:
            losses = losses + sometimes.square().sum()
        if losses.requires_grad:
            optimizer.zero_grad()
            losses.mean().backward()
        return losses if name == "esam" else losses.mean()

    optimizer.step(closure)
    assert optimizer.skipped.item() == 0
    moved = not torch.equal(sometimes.detach(), torch.ones(3).double())
    if name not in TWICE:
        assert moved == (only_in == 1)
    elif only_in == 2:
        assert moved
    else:
        assert moved == (method(name).combine is not Method.combine)


def test_a_sparse_gradient_is_refused():
    model = nn.Embedding(5, 2, sparse=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(lambda: _backward(model(torch.tensor([1])).sum()))


def _backward(loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    return loss


def test_a_group_that_is_added_later_is_perturbed_and_trained():
    model = network()
    named = list(model.named_parameters())
    optimizer = GSAM(named[:-2], torch.optim.SGD, rho=0.1, rho_min=0.05, model=model, lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": named[-2:], "rho": 0.2})
    before = model[4].weight.detach().clone()
    train(model, optimizer, 2)
    assert not torch.equal(before, model[4].weight)
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups


# Copies, schedulers, constructors


@pytest.mark.parametrize("way", ["closure", "by hand"])
def test_torchs_schedulers_reach_the_base_and_do_not_complain(way, recwarn):
    model = network()
    optimizer = wrap(model, "sam")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    rates = []
    for t in range(4):
        by_hand(model, optimizer, t) if way == "by hand" else train(model, optimizer, 1, first=t)
        scheduler.step()
        rates.append(optimizer.base_optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0853553, 0.05, 0.0146447, 0.0], abs=1e-6)
    assert not [str(w.message) for w in recwarn if "lr_scheduler" in str(w.message)]


def test_schedulers_still_reach_the_base_after_loading():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 1)
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.05
    before = model[0].weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.param_groups[0]["weight_decay"] = 0.0
    train(model, optimizer, 1)
    assert torch.equal(before, model[0].weight)


BASES = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Rprop", "ASGD", "Adafactor"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_any_base_trains_skips_and_resumes(name, base):
    model = network()
    optimizer = wrap(model, name, 0.05, getattr(torch.optim, base), fused=None, lr=0.01)
    poisoned = closure_for(model, optimizer, 0)
    before = state(model, optimizer)

    def not_finite():
        loss = poisoned()
        model[4].weight.grad[0, 0] = float("nan")
        return loss

    optimizer.step(not_finite)
    assert_equal(before, state(model, optimizer))  # a skipped first step leaves no trace, whatever the base starts with
    train(model, optimizer, 3)
    saved, weights = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
    losses = train(model, optimizer, 3, first=3)
    other = network(seed=3)
    resumed = wrap(other, name, 0.05, getattr(torch.optim, base), fused=None, lr=0.01)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert train(other, resumed, 3, first=3) == losses
    assert losses[-1] < 5


def test_a_base_is_a_class_or_an_instance():
    a, b = network(), network()
    first = SAM(a.parameters(), torch.optim.SGD, rho=0.1, model=a, lr=0.1, momentum=0.9)
    second = SAM(b.parameters(), torch.optim.SGD(b.parameters(), lr=0.1, momentum=0.9), rho=0.1, model=b)
    assert train(a, first, 3) == train(b, second, 3)


def test_the_constructors_are_those_that_users_know():
    model = network()
    SAM(model.parameters(), torch.optim.SGD, rho=0.05, adaptive=False, model=None, lr=0.1, momentum=0.9)
    GSAM(model.parameters(), torch.optim.SGD, 0.1, rho_min=0.05, alpha=0.4, adaptive=False, model=model, lr=0.1)
    WSAM(model.parameters(), torch.optim.SGD, 0.05, gamma=0.9, decouple=True, model=model, lr=0.1)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda m, p: SAM(p, torch.optim.SGD(p, lr=0.1), lr=0.1), TypeError, "an instance already: give lr"),
        (lambda m, p: SAM(p[:1], torch.optim.SGD(p, lr=0.1)), ValueError, "other parameters"),
        (lambda m, p: SAM(p, torch.optim.LBFGS), ValueError, "LBFGS"),
        (lambda m, p: SAM(p, "sgd"), TypeError, "base_optimizer='sgd'"),
        (lambda m, p: SAM(p, torch.optim.SGD, model="resnet", lr=0.1), TypeError, "model='resnet'"),
        (
            lambda m, p: SAM(p, torch.optim.SGD, model=network(), lr=0.1),
            ValueError,
            "none of the optimizer.s parameters",
        ),
        (lambda m, p: SAM(p, torch.optim.Adadelta), ValueError, "Adadelta has a setting rho of its own"),
        (lambda m, p: SAM(p, torch.optim.SGD, rho=-1.0, lr=0.1), ValueError, "rho=-1.0"),
        (lambda m, p: SAM([{"params": p, "rho": -2.0}], torch.optim.SGD, lr=0.1), ValueError, "rho=-2.0"),
        (lambda m, p: SAM(p, torch.optim.SGD, lr=0.1, batchnorm="never"), ValueError, "'never'"),
        (lambda m, p: SAM(p, torch.optim.SGD, lr=0.1, clip_norm=0.0), ValueError, "clip_norm=0.0"),
        (lambda m, p: SAM(p, torch.optim.SGD, lr=0.1, momentun=0.9), TypeError, "momentun"),
        (lambda m, p: SAM(p, torch.optim.SGD, lr=0.1, maximize=True), ValueError, "maximize"),
        (lambda m, p: SAM([{"params": p, "maximize": True}], torch.optim.SGD, lr=0.1), ValueError, "maximize"),
        (
            lambda m, p: SAM(p, torch.optim.SGD, lr=0.1).add_param_group(
                {"params": [nn.Parameter(torch.ones(1))], "rho": -1.0}
            ),
            ValueError,
            "rho=-1.0",
        ),
        (lambda m, p: FSAM(p, torch.optim.SGD, lmbda=2.0, lr=0.1), ValueError, "lmbda=2.0"),
        (lambda m, p: VaSSO(p, torch.optim.SGD, theta=-1.0, lr=0.1), ValueError, "theta=-1.0"),
        (lambda m, p: GNP(p, torch.optim.SGD, b=float("nan"), lr=0.1), ValueError, "b=nan"),
        (lambda m, p: GSAM(p, torch.optim.SGD, alpha=-3.0, lr=0.1), ValueError, "alpha=-3.0"),
        (lambda m, p: GSAM(p, torch.optim.SGD, rho=0.1, rho_min=0.2, lr=0.1), ValueError, "rho_min=0.2"),
        (lambda m, p: GSAM(p, torch.optim.SGD, rho_min=0.0, lr_min=0.2, lr=0.1), ValueError, "lr_min=0.2"),
        (lambda m, p: WSAM(p, torch.optim.SGD, gamma=1.0, lr=0.1), ValueError, "gamma=1.0"),
        (lambda m, p: WSAM(p, torch.optim.SGD, max_norm=0.0, lr=0.1), ValueError, "max_norm=0.0"),
        (lambda m, p: SAMON(p, torch.optim.SGD, lr=0.1), ValueError, "model="),
        (lambda m, p: SAMON(m[4].parameters(), torch.optim.SGD, lr=0.1, model=m), ValueError, "none of the parameters"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, error, said):
    model = network()
    with pytest.raises(error, match=said):
        make(model, list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("looksam", {"k": 0}, "k=0"),
        ("esam", {"beta": 0.0}, "beta=0.0"),
        ("esam", {"gamma": 1.5}, "gamma=1.5"),
        ("msam", {"momentum": 0.0}, "momentum"),
    ],
)
def test_options_out_of_range_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        wrap(network(), name, **options)


def test_a_closure_of_esam_that_returns_one_loss_is_refused():
    model = network()
    optimizer = wrap(model, "esam")
    with pytest.raises(ValueError, match="one loss for each example"):
        optimizer.step(lambda: _backward(F.cross_entropy(model(batch()[0]), batch()[1])))


def test_the_librarys_gsam_lets_its_radius_follow_the_rate():
    model = network()
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.1, model=model, lr=0.2, lr_min=0.1)
    group = optimizer.param_groups[0]
    radii = []
    for rate in (0.2, 0.15, 0.1, 0.05):
        group["lr"] = rate
        radii.append(optimizer.radius(group))
    assert radii == pytest.approx([0.4, 0.25, 0.1, 0.1])
    group["lr"] = 0.3
    assert optimizer.radius(group) == 0.4


def test_the_librarys_gsam_takes_tensors_for_rates_and_a_greatest_one():
    model = network()
    rate = torch.tensor(0.2)
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.0, model=model, lr=rate)
    rate.fill_(0.1)  # as torch's schedulers do
    assert optimizer.radius(optimizer.param_groups[0]) == pytest.approx(0.2)
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.4, rho_min=0.0, model=model, lr=0.1, lr_max=0.4)
    assert optimizer.radius(optimizer.param_groups[0]) == pytest.approx(0.1)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_counted_where_they_happen(name):
    expected = {"sgd": 6, "msam": 6, "looksam": 9, "sam_every_k": 9, "ss_sam": 10, "ae_sam": 11}
    expected = (expected | {"esam": 6 * (4 / 3 + 1 / 2)}).get(name, 12)
    model = network()
    optimizer, calls = wrap(model, name), []
    for t in range(6):
        closure = closure_for(model, optimizer, t)
        optimizer.step(lambda *chosen, closure=closure: calls.append(None) or closure(*chosen))
    assert optimizer.passes == pytest.approx(expected)
    assert len(calls) == (18 if name == "esam" else expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_direction_is_clipped_and_not_what_it_was_made_of(name):
    model = network()
    optimizer = wrap(model, name, clip_norm=0.01, lr=1.0, momentum=0.9, weight_decay=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    if name == "wsam":
        optimizer.correction = lambda g, h: None  # is not part of the direction
    train(model, optimizer, 1)
    moved = torch.cat([(p - q).reshape(-1) for p, q in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert RADII.get(name, 0.05) > 0.01 or name == "usam"


# What can go wrong half way


def poison(model: nn.Module) -> None:
    model[4].weight.grad[0, 0] = float("nan")


@pytest.mark.parametrize("way", ["skip", "restore"])
def test_statistics_that_were_loaded_after_construction_survive_a_first_step_that_is_skipped(way):
    model, trained = network(), network()
    optimizer = wrap(model, "sam")
    trained[1].running_mean.fill_(7.0)
    model.load_state_dict(trained.state_dict())
    closure_for(model, optimizer)()
    expected = model[1].running_mean.clone()  # after the pass that had begun before the optimizer could know
    poison(model)
    optimizer.first_step(zero_grad=True)
    if way == "skip":
        closure_for(model, optimizer)()
        optimizer.second_step()
    else:
        optimizer.restore()
    assert torch.equal(model[1].running_mean, expected)
    assert 6 < expected.mean() < 7


def test_loading_a_state_forgets_a_step_between_its_halves():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 2)
    closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert_equal(saved[0], dict(model.state_dict()))
    train(model, optimizer, 1)


def test_msam_in_a_loop_that_computes_gradients_first_ignores_them():
    a, b = network(), network()
    first, second = wrap(a, "msam"), wrap(b, "msam", watched=False)
    for t in range(4):
        first.step(closure_for(a, first, t))
        with frozen_statistics(b):
            closure_for(b, second, t)()
        second.first_step(zero_grad=True)
        images, labels = batch(t)
        F.cross_entropy(b(images), labels).backward()
        second.second_step(zero_grad=True)
    assert_equal(state(a, first), state(b, second))


class FailingAtWrite(TorchDispatchMode):
    """Fails in an operation that writes into the weights, and lets all others do their work.

    Args:
        number: which of these operations it is, from 1 on.
        done: whether it has written when it fails.
    """

    def __init__(self, model, number, error, done=False):
        super().__init__()
        self.weights = {p.data_ptr() for p in model.parameters()}
        self.number = number
        self.error = error
        self.done = done

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        hit = any(tensor.data_ptr() in self.weights for tensor in written_by(operation, arguments, named or {}))
        self.number -= hit
        if hit and self.number == 0 and not self.done:
            raise self.error
        result = operation(*arguments, **named or {})
        if hit and self.number == 0:
            raise self.error
        return result


@pytest.mark.parametrize("name", [name for name in PERTURBING if name != "msam"])
def test_an_interrupt_while_the_weights_come_back_does_not_keep_them_away(name):
    model = network()
    optimizer = wrap(model, name)
    train(model, optimizer, 2)
    before = state(model, optimizer)
    with pytest.raises(KeyboardInterrupt), FailingAtWrite(model, 2, KeyboardInterrupt):  # the first perturbs them
        optimizer.step(closure_for(model, optimizer, 2))
    assert_equal(before, state(model, optimizer))


@pytest.mark.parametrize("where", ["before the weights are perturbed", "after it"])
def test_a_failure_within_the_first_half_is_no_half_step(where):
    model = network()
    optimizer = wrap(model, "sam")
    before = state(model, optimizer)
    with frozen_statistics(model):
        closure_for(model, optimizer)()
    with pytest.raises(MemoryError), FailingAtWrite(model, 1, MemoryError, done=where == "after it"):
        optimizer.first_step()
    assert_equal(before, state(model, optimizer))
    by_hand(model, optimizer, 0)


@pytest.mark.parametrize("name", TWICE)
def test_the_second_pass_never_sees_weights_that_are_not_finite(name):
    model = network()
    optimizer = wrap(model, name)
    closure, finite = closure_for(model, optimizer), []

    def watching(*chosen):
        finite.append(all(p.isfinite().all() for p in model.parameters()))
        loss = closure(*chosen)
        if len(finite) == 1:
            poison(model)
        return loss

    optimizer.step(watching)
    assert all(finite)
    assert optimizer.skipped.item() == 1


def test_a_second_half_without_gradients_gives_the_step_up():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 1)
    before = state(model, optimizer)
    with frozen_statistics(model):
        closure_for(model, optimizer)()
    optimizer.first_step(zero_grad=True)
    with pytest.raises(ValueError, match="backward"):
        optimizer.second_step()
    assert_equal(before, state(model, optimizer))
    by_hand(model, optimizer, 0)


@pytest.mark.parametrize("forgotten", ["first_step", "second_step"])
def test_a_scaler_that_one_half_is_not_given_is_an_error(forgotten):
    model = network()
    optimizer = wrap(model, "gsam")
    scaler = torch.amp.GradScaler("cpu")
    closure = closure_for(model, optimizer, 0, backward=scaled(scaler))
    before = [p.detach().clone() for p in model.parameters()]
    closure()
    optimizer.first_step(zero_grad=True, scaler=None if forgotten == "first_step" else scaler)
    closure()
    with pytest.raises(ValueError, match="same scaler"):
        optimizer.second_step(scaler=None if forgotten == "second_step" else scaler)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_gradients_that_a_step_of_one_pass_ignores_move_nothing():
    model = network()
    extra = nn.Parameter(torch.ones(2).double())
    optimizer = wrap(model, "sam_every_k", params=[*model.named_parameters(), ("extra", extra)], k=2)
    train(model, optimizer, 1)
    closure_for(model, optimizer, 1)()
    assert not optimizer.first_step(zero_grad=True)
    extra.sum().backward()
    optimizer.second_step()
    assert torch.equal(extra.detach(), torch.ones(2).double())


@pytest.mark.parametrize("returned", [None, 0.5])
def test_a_closure_that_returns_no_loss_is_refused(returned):
    model = network()
    optimizer = wrap(model, "sam")
    closure = closure_for(model, optimizer)
    with pytest.raises(TypeError, match="must return the loss"):
        optimizer.step(lambda: closure() and returned)


def test_the_state_of_another_method_is_refused_by_name():
    model = network()
    saved = wrap(model, "vasso").state_dict()
    for name in ("fsam", "wasam", "sam"):
        with pytest.raises(ValueError, match="state of VaSSO"):
            wrap(model, name).load_state_dict(saved)


def test_groups_may_be_empty_or_come_through_the_base():
    model = network()
    parameters = list(model.parameters())
    optimizer = SAM([{"params": []}, {"params": parameters[:-1]}], torch.optim.SGD, model=model, **SGD)
    optimizer.base_optimizer.add_param_group({"params": parameters[-1:]})
    before = model[4].bias.detach().clone()
    train(model, optimizer, 2)
    assert not torch.equal(before, model[4].bias)


def test_msam_on_a_momentum_that_it_does_not_know_is_an_error():
    class Other(torch.optim.SGD):
        def step(self):
            super().step()
            for kept in self.state.values():
                kept["velocity"] = kept.pop("momentum_buffer")

    model = network()
    optimizer = MSAM(model.parameters(), Other, model=model, lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    with pytest.raises(RuntimeError, match="Other keeps no momentum"):
        train(model, optimizer, 1)


def test_esams_masks_depend_on_the_seed():
    def after(seed: int) -> torch.Tensor:
        model = network()
        optimizer = ESAM(model.parameters(), torch.optim.SGD, 0.5, model=model, seed=seed, lr=0.1)
        train(model, optimizer, 2)
        return model[0].weight.detach()

    assert torch.equal(after(1), after(1))
    assert not torch.equal(after(1), after(2))
    assert after(2**32 - 1).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inner_products_of_half_precision_are_those_of_single_precision(dtype):
    for value in (1e-4, 300.0):
        a = [torch.full((100,), value, dtype=dtype)]
        expected = (a[0].double() ** 2).sum().item()
        assert inner_product(a, a).item() == pytest.approx(expected, rel=1e-5)
    mixed = [torch.ones(3), torch.ones(4, dtype=torch.float64)]
    assert global_norm(mixed).item() == pytest.approx(7**0.5)


def test_a_model_that_is_widened_on_the_way_keeps_its_weights_whole():
    model = network(dtype=torch.bfloat16)
    optimizer = wrap(model, "sam", fused=None, lr=0.0, momentum=0.0, weight_decay=0.0)
    train(model, optimizer, 1)
    for p in model.parameters():
        p.data = p.data.float() + 1e-3
    for buffer in (model[1].running_mean, model[1].running_var):
        buffer.data = buffer.data.float()
    before = flat(model)
    train(model, optimizer, 1)
    assert torch.equal(flat(model), before)


class Scaled(nn.Module):
    """With a parameter that is a scalar, as CLIP's temperature is."""

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
def test_scalars_in_half_precision_get_gradients_of_their_type(name, options):
    model = Scaled(torch.bfloat16)
    optimizer = wrap(model, name, fused=None, **options)
    before = flat(model)
    train(model, optimizer, 3)
    assert not torch.equal(flat(model), before)
    assert optimizer.skipped.item() == 0


class Foreign(torch.optim.SGD):
    """Somebody's optimizer with a setting called fused, of which a scaler knows nothing."""

    def __init__(self, params, lr: float):
        super().__init__(params, lr)
        self.param_groups[0]["fused"] = True

    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= self.param_groups[0]["lr"] * p.grad


def test_a_foreign_fused_base_is_undone_too_where_a_gradient_is_not_finite():
    model = network()
    optimizer = SAM(model.parameters(), Foreign(model.parameters(), lr=0.1), model=model)
    before = flat(model)
    optimizer.step(closure_for(model, optimizer, backward=lambda loss: (loss * float("nan")).backward()))
    assert torch.equal(flat(model), before)
    assert optimizer.skipped.item() == 1


@pytest.mark.parametrize("before", [True, False], ids=["before the first half", "before the second half"])
def test_gradients_that_a_user_unscales_are_an_error_that_names_the_way_out(before):
    model = network()
    optimizer = wrap(model, "sam")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward = closure_for(model, optimizer, backward=scaled(scaler))
    train(model, optimizer, 1)
    found = state(model, optimizer)
    backward()
    if before:
        scaler.unscale_(optimizer)
    optimizer.first_step(zero_grad=True, scaler=scaler)
    backward()
    if not before:
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="clips with clip_norm="):
        optimizer.second_step(scaler=scaler)
    assert_equal(state(model, optimizer), found)


def test_a_state_that_cannot_be_loaded_leaves_a_half_step_to_be_given_up():
    model, other = network(), Plain()
    optimizer = wrap(model, "sam")
    before = flat(model)
    closure_for(model, optimizer)()
    optimizer.first_step()
    with pytest.raises(ValueError, match="group"):
        optimizer.load_state_dict(wrap(other, "sam", params=[next(other.parameters())]).state_dict())
    optimizer.restore()
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("name", ["sam", "wasam"])
def test_hooks_on_saving_and_loading_are_called_as_torchs_are(name):
    model = network()
    optimizer = wrap(model, name)
    called = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: called.append("saving"))
    optimizer.register_state_dict_post_hook(lambda optimizer, state: called.append(len(state)) or state | {"mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state: called.append(state.pop("mine")))
    optimizer.register_load_state_dict_post_hook(lambda optimizer: called.append("loaded"))
    found = optimizer.state_dict()
    optimizer.load_state_dict(found)
    assert called == ["saving", 4 if name == "wasam" else 3, 1, "loaded"]


def test_the_scaler_hears_of_the_first_pass_although_the_first_parameter_is_empty():
    model = Plain()
    model.register_parameter("none", nn.Parameter(torch.zeros(0, dtype=torch.float64)))
    params = [model.none, *(p for p in model.parameters() if p is not model.none)]
    optimizer = wrap(model, "sam", params=params, fused=None)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    passes = []

    def backward(loss):
        passes.append(scaler.scale(loss + model.none.sum()) * (1 if passes else float("inf")))
        passes[-1].backward()

    optimizer.step(closure_for(model, optimizer, backward=backward), scaler=scaler)
    scaler.update()
    assert (scaler.get_scale(), optimizer.skipped.item()) == (512, 1)
