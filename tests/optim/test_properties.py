"""What every sharpness-aware optimizer must show, whatever the method."""

import contextlib
import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from sam_bench import AESAM, GSAM, OfficialASAM
from sam_bench.optim.norms import global_norm, inner_product
from sam_bench.optim.registry import METHODS
from tests.optim.problem import (
    AHEAD,
    CUT,
    PASSES,
    PERTURBING,
    SGD,
    TWICE,
    assert_equal,
    batch,
    closure_for,
    end,
    flat,
    groups,
    network,
    remember,
    state,
    train,
    wrap,
)

BOTH_BASES = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])


def perturbation(name: str, rho: float, **options) -> tuple[nn.Module, list[torch.Tensor], list[torch.Tensor]]:
    """The weights before a step, and what was added to them in its second pass."""
    model = network()
    optimizer = wrap(model, name, rho, **options)
    closure, seen = closure_for(model, optimizer), []

    def spy():
        seen.append([p.detach().clone() for p in model.parameters()])
        return closure()

    optimizer.step(spy)
    before, during = seen
    return model, before, [d - b for d, b in zip(during, before, strict=True)]


@BOTH_BASES
@pytest.mark.parametrize("name", [name for name in METHODS if name not in AHEAD])
def test_radius_zero_is_the_base_optimizer_exactly(name, fused):
    model, plain = network(), network()
    options = (
        {"gamma": 1.0} if name == "esam" else {}
    )  # else its second pass is on part of the batch, whatever the radius
    optimizer = wrap(model, name, rho=0.0, fused=fused, **options)
    base = torch.optim.SGD(plain.parameters(), fused=fused, **SGD)
    for t in range(5):
        train(model, optimizer, 1, first=t)
        closure_for(plain, base, t)()
        base.step()
    assert_equal(
        dict(model.state_dict()),
        dict(plain.state_dict()),
    )
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], base.state[q]["momentum_buffer"])


@BOTH_BASES
@pytest.mark.parametrize("name", TWICE)
def test_before_its_start_a_method_is_the_base_optimizer_exactly(name, fused):
    model, plain = network(), network()
    optimizer = wrap(model, name, fused=fused, start=4)
    base = wrap(plain, "sgd", fused=fused)
    for t in range(4):
        assert not optimizer.next_has_second_pass
        assert train(model, optimizer, 1, first=t) == train(plain, base, 1, first=t)
    assert_equal(model.state_dict(), plain.state_dict())
    assert optimizer.passes == 4
    assert optimizer.next_has_second_pass
    losses = train(model, optimizer, 1, first=4), train(plain, base, 1, first=4)
    assert (losses[0] == losses[1]) == (name not in AHEAD)
    assert optimizer.passes > 5
    assert not torch.equal(flat(model), flat(plain))


SAME = {
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
"""A method with options that make it another one with its options."""


@pytest.mark.parametrize("case", SAME)
def test_a_limit_of_a_method_is_another_method(case):
    name, options, other, other_options = SAME[case]
    a, b = network(), network()
    first, second = wrap(a, name, rho=0.5, **options), wrap(b, other, rho=0.5, **other_options)
    assert train(a, first, 10) == pytest.approx(train(b, second, 10), abs=1e-12)
    for key, value in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[key], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in TWICE if name in CUT])
def test_one_part_that_is_the_whole_batch_is_the_method_itself(name):
    a, b = network(), network()
    first, second = wrap(a, name), wrap(b, name)
    for t in range(5):
        first.step([closure_for(a, first, t)], [1.0])
        second.step(closure_for(b, second, t))
    assert_equal(state(a, first), state(b, second))


NORMALISED = ["sam", "wasam", "wsam", "gnp", "fsam", "vasso", "looksam", "sam_every_k", "sam_on", "stable_sam", "saner"]
NORMALISED += ["ss_sam", "ae_sam"]


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("rho", [0.01, 0.05, 2.0])
def test_a_normalised_perturbation_is_as_long_as_the_radius(name, rho):
    _, _, e = perturbation(name, rho)
    assert global_norm(e).item() == pytest.approx(rho, rel=1e-9)


@pytest.mark.parametrize("rho", [0.01, 0.5, 2.0])
def test_asams_perturbation_is_as_long_as_the_radius_in_units_of_the_weights(rho):
    _, w, e = perturbation("asam", rho)
    scaled = [torch.where(x != 0, y / x.abs(), 0.0) for x, y in zip(w, e, strict=True)]
    assert global_norm(scaled).item() == pytest.approx(rho, rel=1e-9)
    assert all((y[x == 0] == 0).all() for x, y in zip(w, e, strict=True))


@pytest.mark.parametrize("rho", [0.01, 0.5])
def test_the_authors_asam_scales_tensors_named_weight_only(rho):
    model, w, e = perturbation("asam_official", rho)
    scaled = []
    for (name, _), x, y in zip(model.named_parameters(), w, e, strict=True):
        scaled.append(y / (x.abs() + 0.01) if "weight" in name else y)
    assert global_norm(scaled).item() == pytest.approx(rho, rel=1e-9)


def test_stable_sams_direction_is_h_at_the_length_of_g():
    optimizer = wrap(network(), "stable_sam")
    generator = torch.Generator().manual_seed(0)
    g, h = ([torch.randn(n, generator=generator).double() for n in (3, 40)] for _ in range(2))
    v = optimizer.combine(g, h)
    assert global_norm(v).item() == pytest.approx(global_norm(g).item(), rel=1e-9)
    assert inner_product(v, h).item() == pytest.approx((global_norm(v) * global_norm(h)).item(), rel=1e-9)
    assert all((x == 0).all() for x in optimizer.combine(g, [torch.zeros_like(x) for x in h]))


def test_saner_takes_from_what_has_shrunk_and_kept_its_sign():
    optimizer = wrap(network(), "saner", alpha=0.25)
    g = [torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]), torch.tensor([[-2.0, -2.0, 0.0, 0.0, -2.0]])]
    h = [torch.tensor([1.0, 3.0, 2.0, -1.0, 0.0]), torch.tensor([[-1.0, -3.0, 1.0, 0.0, 1.0]])]
    first, second = optimizer.combine(g, h)
    assert first.tolist() == [0.75, 3.0, 2.0, -1.0, 0.0]
    assert second.tolist() == [[-0.75, -3.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 30), (6, 5, 3, 3), (1, 1), (3, 1)])
def test_zsharp_keeps_the_elements_with_a_great_z_score(shape, dtype):
    optimizer = wrap(network(), "zsharp", quantile=0.9)
    g = [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype) + 0.3, torch.randn(7).to(dtype)]
    first, second = optimizer.direction(g, g)
    z = ((g[0].double() - g[0].double().mean()) / g[0].double().std(correction=0)).abs().nan_to_num()
    expected = torch.where(z > torch.quantile(z, 0.9), g[0], 0.0)
    norm = expected.norm() if expected.any() else global_norm(g)
    expected = expected if expected.any() else g[0]
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 0.02, "atol": 1e-3}
    torch.testing.assert_close(first, expected / norm, **tolerance)
    torch.testing.assert_close(second, (g[1] / global_norm(g)).to(dtype), check_dtype=False, **tolerance)


def test_ss_sams_draws_are_even_and_follow_from_the_seed():
    drawn = {
        seed: [wrap(network(), "ss_sam", p=0.3, seed=seed).has_second_pass(t) for t in range(3000)] for seed in (0, 1)
    }
    for taken in drawn.values():
        assert sum(taken) / 3000 == pytest.approx(0.3, abs=0.03)
        assert sum(a and b for a, b in itertools.pairwise(taken)) / 2999 == pytest.approx(0.09, abs=0.02)
    assert sum(a == b for a, b in zip(*drawn.values(), strict=True)) / 3000 == pytest.approx(0.58, abs=0.03)


def test_ae_sam_takes_a_second_pass_where_the_gradient_is_long():
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = wrap(model, "ae_sam", lambda_1=1.0, lambda_2=1.0, lr=0.0)
    taken = []
    for length in (1.0, 1.0, 0.1, 5.0, 1.0):
        before = optimizer.passes

        def closure(length=length):
            optimizer.zero_grad()
            loss = length * model.weight.sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        taken.append(optimizer.passes - before == 2)
    assert taken == [True, False, False, True, False]


def test_a_step_by_hand_that_fails_leaves_no_decision_behind():
    model = network()
    optimizer = wrap(model, "ae_sam", lambda_1=1e9, lambda_2=1e9)
    scaler = torch.amp.GradScaler("cpu")
    closure = closure_for(model, optimizer, 0, backward=lambda loss: scaler.scale(loss).backward())
    closure()
    assert not optimizer.first_step(zero_grad=True, scaler=scaler)
    closure()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="update"):
        optimizer.second_step(scaler=scaler)
    assert optimizer.next_has_second_pass
    optimizer.lambda_1 = optimizer.lambda_2 = -1e9
    before = optimizer.passes
    train(model, optimizer, 1)
    assert optimizer.passes - before == 2


def test_a_decision_is_kept_in_the_steps_that_made_one():
    class Seldom(AESAM):
        def has_second_pass(self, t):
            return t % 2 == 0

    model = network()
    optimizer = Seldom(model.named_parameters(), torch.optim.SGD, total_steps=9, model=model, **SGD)
    train(model, optimizer, 1)
    after = optimizer.averages.clone()
    train(model, optimizer, 1, first=1)
    assert torch.equal(optimizer.averages, after)
    train(model, optimizer, 1, first=2)
    assert not torch.equal(optimizer.averages, after)


def test_a_batch_in_parts_is_refused_where_the_gradient_decides():
    model = network()
    optimizer = wrap(model, "ae_sam")
    with pytest.raises(ValueError, match="AESAM decides for a whole batch"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)])


def test_sampa_refuses_parts_of_a_batch():
    model = network()
    optimizer = wrap(model, "sampa")
    with pytest.raises(ValueError, match="SAMPa repeats a whole batch"):
        optimizer.step([closure_for(model, optimizer), closure_for(model, optimizer)])


def test_sampa_refuses_a_closure_whose_batch_has_changed():
    model = network()
    optimizer = wrap(model, "sampa")
    images, labels = batch(0)

    def closure():
        optimizer.zero_grad()
        return end(optimizer, nn.functional.cross_entropy(model(images), labels, reduction="none"))

    optimizer.step(closure)
    optimizer.step(closure)  # on the same batch
    before = state(model, optimizer)
    images, labels = batch(1)
    with pytest.raises(RuntimeError, match="'images' was reassigned"):
        optimizer.step(closure)
    assert_equal(before, state(model, optimizer))
    optimizer.remember(closure)
    optimizer.step(closure)


labels = batch(0)[1]
"""Which a closure of a script finds among the globals."""


def test_sampa_sees_tensors_that_change_through_decorators_and_globals_and_no_others(monkeypatch):
    model = network()
    optimizer = wrap(model, "sampa")

    def closure_of(t):
        images = batch(t)[0]

        @torch.enable_grad()
        def closure():
            optimizer.zero_grad()
            return end(optimizer, nn.functional.cross_entropy(model(images), labels, reduction="none"))

        return closure

    for t in range(3):  # its own images: nothing is refused
        assert optimizer.step(closure_of(t)).isfinite()
    monkeypatch.setitem(globals(), "labels", labels.clone())
    with pytest.raises(RuntimeError, match="'labels' was reassigned"):
        optimizer.step(closure_of(3))


@pytest.mark.parametrize("first_step", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("what", ["not finite", "an exception"])
def test_a_failure_on_sampas_batch_before_leaves_everything_as_it_was(what, first_step):
    model = network()
    optimizer = wrap(model, "sampa")
    passes = itertools.count(1)

    def closure_of(t):
        closure = closure_for(model, optimizer, t)

        def failing():
            loss = closure()
            if next(passes) == (2 if first_step else 4):
                if what == "an exception":
                    raise MemoryError
                model[4].weight.grad[0, 0] = float("nan")
            return loss

        return failing

    for t in range(1 if first_step else 2):
        before = state(model, optimizer)
        with pytest.raises(MemoryError) if what[0] == "a" and (first_step or t) else contextlib.nullcontext():
            optimizer.step(closure_of(t))
    after = state(model, optimizer)
    assert_equal({key: after[key] for key in before}, before)
    assert optimizer.skipped.item() == (what == "not finite")


def test_a_pickled_sampa_and_a_copy_go_on_without_the_closure():
    model = network()
    optimizer = wrap(model, "sampa")
    first = closure_for(model, optimizer)
    optimizer.step(lambda: first())  # which cannot be pickled
    other, copied = pickle.loads(pickle.dumps((model, optimizer)))
    images, labels = batch(1)

    def closure(chosen=slice(None)):
        copied.zero_grad()
        return end(copied, nn.functional.cross_entropy(other(images[chosen]), labels[chosen], reduction="none"))

    assert copied.step(closure).isfinite()


def test_sampas_second_gradient_is_of_the_batch_before():
    model = network()
    optimizer = wrap(model, "sampa")
    seen = []
    for t in range(3):
        closure = closure_for(model, optimizer, t)
        optimizer.step(lambda t=t, closure=closure: seen.append(t) or closure())
    assert seen == [0, 0, 1, 0, 2, 1]


def test_bsams_noise_has_the_posteriors_deviation():
    model = network()
    optimizer = wrap(model, "bsam", examples=400)
    train(model, optimizer, 3)
    seen = []
    for part in range(300):
        noise, scale = optimizer.ahead(part)
        assert scale({}) == 1.0
        seen.append(noise[model[4].weight])
    s = optimizer.memory[model[4].weight]["s"]
    assert s.min() < s.max()
    standard = torch.stack(seen) * (400 * s).sqrt()
    assert standard.mean().abs() < 0.01
    assert standard.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(optimizer.ahead(7)[0][model[4].weight], seen[7])


def test_gsam_keeps_the_projection_on_h():
    generator = torch.Generator().manual_seed(0)
    g, h = ([torch.randn(n, generator=generator, dtype=torch.float64) for n in (7, 11)] for _ in range(2))
    v = GSAM([torch.zeros(1)], torch.optim.SGD, lr=0.1, alpha=0.4).combine(g, [x.clone() for x in h])
    assert inner_product(v, h).item() == pytest.approx(inner_product(h, h).item(), rel=1e-12)


def test_asams_step_on_the_loss_does_not_change_when_two_layers_are_rescaled():
    def loss_at_perturbed(scale: float) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(scale)
            model[2].weight.div_(scale)
        x, y = torch.randn(20, 5).double(), torch.randint(0, 3, (20,))
        optimizer, losses = wrap(model, "asam", rho=0.3), []

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        return losses[1]

    assert loss_at_perturbed(1.0) == pytest.approx(loss_at_perturbed(7.0), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "batchnorm", "times"),
    [
        ("sam", "both", 2),
        ("esam", "both", 3),  # its second pass begins with a forward pass over the whole batch
        ("sampa", "both", 2),
        ("sampa", "clean", 1),
        ("bsam", "clean", 1),
        ("msam", "clean", 1),
    ],
)
def test_running_statistics_change_once_per_pass(name, batchnorm, times):
    model = network()
    optimizer = wrap(model, name, rho=0.5, batchnorm=batchnorm)
    once = copy.deepcopy(model)
    once(batch()[0])
    train(model, optimizer, 1)
    assert model[1].num_batches_tracked.item() == times
    same = torch.equal(model[1].running_mean, once[1].running_mean)
    assert same == (times == 1 and name not in AHEAD)


@BOTH_BASES
@pytest.mark.parametrize("first_step", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize(
    ("name", "failing_pass"), [each for each in PASSES if each[0] in ("sgd", "sam", "wsam", "msam")]
)
def test_gradient_that_is_not_finite_skips_the_step(name, first_step, failing_pass, fused):
    model, untouched = network(), network()
    optimizer, other = wrap(model, name, rho=0.5, fused=fused), wrap(untouched, name, rho=0.5, fused=fused)
    if not first_step:
        train(model, optimizer, 2)
        train(untouched, other, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls, closure = itertools.count(1), closure_for(model, optimizer, 2)

    def poisoned(*chosen):
        loss = closure(*chosen)
        if torch.is_grad_enabled() and next(calls) == failing_pass:
            model[4].weight.grad[3, 5] = float("nan")
        return loss

    optimizer.step(poisoned)
    assert optimizer.skipped.item() == 1
    assert_equal(before, dict(model.state_dict()))
    other.steps += 1  # a skipped step is one too
    remember(untouched, other, 2)
    train(model, optimizer, 3, first=3)
    train(untouched, other, 3, first=3)
    assert_equal(state(untouched, other), state(model, optimizer))


@BOTH_BASES
@pytest.mark.parametrize("name", ["sgd", "sam", "esam", "sampa", "bsam", "msam"])
def test_group_that_is_frozen_as_a_whole_stays(name, fused):
    model = network()
    for p in model[:2].parameters():
        p.requires_grad_(False)
    before = model[0].weight.clone()
    params = [{"params": list(part.named_parameters())} for part in (model[:2], model[4:])]
    optimizer = wrap(model, name, fused=fused, params=params)
    train(model, optimizer, 3)
    assert optimizer.skipped.item() == 0
    assert torch.equal(before, model[0].weight)


@BOTH_BASES
@pytest.mark.parametrize("name", ["sgd", "sam", "esam", "sampa", "bsam", "msam"])
def test_training_with_frozen_and_unused_parameters(name, fused):
    model = network()
    model.unused = nn.Linear(2, 2).double()
    model[1].bias.requires_grad_(False)
    grouped = groups(model)
    for group in grouped:
        group["rho"] *= 0.01
    optimizer = wrap(model, name, fused=fused, params=grouped)
    frozen = model[1].bias.detach().clone()
    unused = model.unused.weight.detach().clone()
    model_only = nn.Sequential(*list(model.children())[:5])

    def closure(chosen=slice(None)):
        images, labels = (x[chosen] for x in batch())
        losses = nn.functional.cross_entropy(model_only(images), labels, reduction="none")
        if losses.requires_grad:
            optimizer.zero_grad()
        return end(optimizer, losses)

    losses = [optimizer.step(closure).item() for _ in range(10)]
    assert losses[-1] < losses[0]
    assert torch.equal(frozen, model[1].bias)
    assert torch.equal(unused, model.unused.weight)
    assert optimizer.skipped.item() == 0


@BOTH_BASES
@pytest.mark.parametrize("name", ["sgd", "sam", "wsam", "sampa", "bsam"])
def test_training_on_adamw_resumes_bit_for_bit(name, fused, tmp_path):
    base = torch.optim.AdamW
    model = network()
    optimizer = wrap(model, name, 0.5, base, fused)
    train(model, optimizer, 5)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    losses = train(model, optimizer, 5, first=5)

    other = network(seed=9)
    resumed = wrap(other, name, 0.5, base, fused)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    remember(other, resumed, 4)
    assert train(other, resumed, 5, first=5) == losses
    assert_equal(state(model, optimizer), state(other, resumed))
    assert (resumed.passes, resumed.steps) == (optimizer.passes, optimizer.steps)
    resumed.param_groups[0]["lr"] = 0.123
    assert resumed.base_optimizer.param_groups[0]["lr"] == 0.123


def test_the_loss_returned_is_the_unperturbed_one_and_carries_no_graph():
    model = network()
    optimizer = wrap(model, "sam", rho=0.5)
    expected = closure_for(model, optimizer)().item()
    loss = optimizer.step(closure_for(model, optimizer))
    assert loss.item() == expected
    assert not loss.requires_grad


@pytest.mark.parametrize("name", PERTURBING)
def test_a_closure_that_does_not_clear_gradients_does_no_harm(name):
    a, b = network(), network()
    first, second = wrap(a, name, rho=0.5), wrap(b, name, rho=0.5)
    train(a, first, 3)
    for t in range(3):
        images, labels = batch(t)

        def closure(chosen=slice(None), images=images, labels=labels):
            return end(second, nn.functional.cross_entropy(b(images[chosen]), labels[chosen], reduction="none"))

        second.step(closure)
    assert_equal(state(a, first), state(b, second))


@pytest.mark.parametrize("name", METHODS)
def test_an_autocast_around_the_step_never_sees_weights_of_before(name):
    def losses(around: bool) -> list[float]:
        model, seen = network(dtype=torch.float32), []
        autocast, nothing = torch.autocast("cpu", torch.bfloat16), contextlib.nullcontext()
        optimizer = wrap(model, name, rho=1.0 if name == "sam" else None)
        images, labels = batch(dtype=torch.float32)

        def closure(chosen=slice(None)):
            with nothing if around else autocast:
                losses = nn.functional.cross_entropy(model(images[chosen]), labels[chosen], reduction="none")
            seen.append(losses.mean().item())
            if losses.requires_grad:
                optimizer.zero_grad()
            return end(optimizer, losses)

        with autocast if around else nothing:
            for _ in range(4):
                optimizer.step(closure)
        return seen

    inside = losses(around=False)
    assert len(set(inside)) == len(inside)
    assert losses(around=True) == inside


def test_torchs_schedulers_reach_the_base_optimizer():
    model = network()
    optimizer = wrap(model, "sam")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    train(model, optimizer, 1)
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(rho):
    with pytest.raises(ValueError, match="rho"):
        wrap(network(), "sam", rho=rho)


def test_the_authors_asam_refuses_parameters_without_names():
    model = network()
    with pytest.raises(ValueError, match="named_parameters"):
        OfficialASAM(model.parameters(), torch.optim.SGD, lr=0.1)


def test_another_optimizers_state_is_refused():
    model = network()
    optimizer = wrap(model, "sam")
    with pytest.raises(ValueError, match="sharpness_aware"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
