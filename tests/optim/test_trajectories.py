"""Every method's steps equal those of the plain reference, which shares no code with the engine."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sam_bench.optim.registry import METHODS, method
from tests.optim import reference
from tests.optim.problem import (
    ARGUMENTS,
    CUT,
    OPTIONS,
    PERTURBING,
    RADII,
    SGD,
    TWICE,
    closure_for,
    end,
    groups,
    network,
    oracle,
    train,
    weights,
    wrap,
)

ADAMW = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.05}
BASES = {"sgd": (torch.optim.SGD, reference.SGDBase, SGD), "adamw": (torch.optim.AdamW, reference.AdamWBase, ADAMW)}
FORMS = {
    "gsam on SAM": ("gsam", {"adaptive": False}),
    "coupled wsam": ("wsam", {"decouple": False}),
    "adaptive wsam": ("wsam", {"adaptive": True}),
    "clipped wsam": ("wsam", {"max_norm": 0.5}),
    "clipped coupled wsam": ("wsam", {"decouple": False, "max_norm": 0.5}),
    "adaptive gnp": ("gnp", {"adaptive": True}),
    "adaptive sam_on": ("sam_on", {"adaptive": True}),
    "adaptive esam": ("esam", {"adaptive": True}),
    "adaptive stable_sam": ("stable_sam", {"adaptive": True}),
    "adaptive saner": ("saner", {"adaptive": True}),
    "adaptive ss_sam": ("ss_sam", {"adaptive": True}),
    "adaptive ae_sam": ("ae_sam", {"adaptive": True}),
    "ae_sam as by default": ("ae_sam", {"delta": 0.9, "lambda_1": -1.0, "lambda_2": 1.0}),
    "half-friendly fsam": ("fsam", {"sigma": 0.5}),
}
"""Of methods that have more than one: method and options."""


def masks(shapes: dict[str, tuple[int, ...]], beta: float):
    """ESAM's masks, drawn as it says it draws them: from the step alone, in the parameters' order."""

    def mask(t: int) -> dict[str, np.ndarray]:
        generator = torch.Generator().manual_seed(t)
        return {
            name: (torch.rand(shape, generator=generator) < beta).numpy().astype(float)
            for name, shape in shapes.items()
        }

    return mask


def coin(t: int) -> float:
    """SS-SAM's draws, as it says it draws them: from seed and step alone."""
    text = f"{ARGUMENTS['ss_sam']['seed']} {t}"
    return int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16) / 2**64


def noise(shapes: dict[str, tuple[int, ...]]):
    """bSAM's noise, as it says it draws it: from seed, step and part, in the parameters' order."""

    def draw(t: int, part: int) -> dict[str, np.ndarray]:
        text = f"{ARGUMENTS['bsam']['seed']} {t} {part}"
        seed = int(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), 16) % 2**32
        generator = torch.Generator().manual_seed(seed)
        sizes = [math.prod(shape) for shape in shapes.values()]
        drawn = np.split(torch.randn(sum(sizes), generator=generator).double().numpy(), np.cumsum(sizes)[:-1])
        return {n: x.reshape(shape) for (n, shape), x in zip(shapes.items(), drawn, strict=True)}

    return draw


def reference_for(name: str, model: nn.Module, order: list[str], base, rho, **options) -> reference.Reference:
    """The plain method; `order` is that of the engine's parameters with a gradient."""
    if name == "sam_on":
        of_layer = ("1.", "norm.")
        options["only"] = {n for n, p in model.named_parameters() if n.startswith(of_layer) and p.requires_grad}
    if name == "esam":
        shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        options["mask"] = masks({n: shapes[n] for n in order if n in shapes}, options["beta"])
    if name == "ss_sam":
        options["coin"] = coin
    if name == "ae_sam":
        options |= ARGUMENTS["ae_sam"]
    if name == "bsam":
        shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        options["noise"] = noise({n: shapes[n] for n in order if n in shapes})
    return reference.Reference(name, base, rho=rho, **options)


def compare(name: str, base: str, fused: bool, steps: int, base_options=None, parts=None, clip_norm=None, **changes):
    """Engine and reference, on a network with BatchNorm, a frozen parameter and two groups, step by step."""
    optimizer_class, reference_class, settings_ = BASES[base]
    settings_ = settings_ | (base_options or {})
    options = OPTIONS.get(name, {}) | changes
    model = network()
    model[1].bias.requires_grad_(False)
    grouped = groups(model)
    scale = RADII.get(name, 0.05) / 0.1
    radius, rate, decay = {}, {}, {}
    for group in grouped:
        group["rho"] *= scale
        for n, _ in group["params"]:
            radius[n], rate[n] = group["rho"], group.get("lr", settings_["lr"])
            decay[n] = group.get("weight_decay", settings_["weight_decay"])
    order = [n for group in grouped for n, _ in group["params"]]
    engine = wrap(model, name, 0.0, optimizer_class, fused, grouped, clip_norm=clip_norm, **options, **settings_)
    plain_base = reference_class(**settings_ | {"lr": rate, "weight_decay": decay})
    plain = reference_for(name, model, order, plain_base, radius, clip_norm=clip_norm, **options)
    w = weights(model)
    for t in range(steps):
        if parts is None:
            expected, w = plain.step(w, oracle(model, t, name))
            loss = train(model, engine, 1, first=t)[0]
        else:
            shares = [(part.stop - part.start) / 12 for part in parts]
            oracles = [oracle(model, t, name, part) for part in parts]
            expected, w = plain.step(w, list(zip(oracles, shares, strict=True)))
            closures = [closure_for(model, engine, t, part) for part in parts]
            loss = engine.step(closures, shares).item()
        assert loss == pytest.approx(expected, abs=1e-10)
        for key, value in weights(model).items():
            np.testing.assert_allclose(value, w[key], rtol=0, atol=1e-10, err_msg=f"{key} after step {t + 1}")
    assert engine.passes == pytest.approx(plain.passes)
    assert engine.skipped.item() == 0


@pytest.mark.parametrize("name", METHODS)
def test_fifty_steps_equal_the_reference(name):
    compare(name, "sgd", True, 50)


@pytest.mark.parametrize("name", METHODS)
def test_steps_on_adamw_equal_the_reference(name):
    compare(name, "adamw", False, 15)


@pytest.mark.parametrize("name", TWICE)
def test_steps_with_a_late_start_equal_the_reference(name):
    compare(name, "sgd", False, 10, parts=[slice(0, 5), slice(5, 12)] if name in CUT else None, start=4)


@pytest.mark.parametrize("form", FORMS)
def test_steps_of_every_form_equal_the_reference(form):
    name, options = FORMS[form]
    compare(name, "sgd", True, 15, **options)


@pytest.mark.parametrize("name", METHODS)
def test_clipped_nesterov_steps_equal_the_reference(name):
    compare(name, "sgd", True, 10, base_options={"nesterov": True}, clip_norm=0.3)


@pytest.mark.parametrize("name", CUT)
def test_steps_in_parts_equal_the_reference(name):
    compare(name, "sgd", True, 10, parts=[slice(0, 5), slice(5, 10), slice(10, 12)])


@pytest.mark.parametrize("name", PERTURBING)
def test_a_radius_and_rate_that_change_are_used_at_once(name):
    model = network()
    engine = wrap(model, name)
    order = [n for n, _ in model.named_parameters()]
    plain = reference_for(name, model, order, reference.SGDBase(**SGD), 0.0, **OPTIONS.get(name, {}))
    w = weights(model)
    for t in range(10):
        lr, rho = 0.1 / (t + 1), RADII.get(name, 0.05) * (1 - 0.08 * t)
        for group in engine.param_groups:
            group.update(lr=lr, rho=rho)
        _, w = plain.step(w, oracle(model, t, name), rho=rho, lr=lr)
        train(model, engine, 1, first=t)
    for key, value in weights(model).items():
        np.testing.assert_allclose(value, w[key], rtol=0, atol=1e-10, err_msg=key)


class Bowls(nn.Module):
    """Tensors of any shape, with one loss for each of seven examples, smooth and coupled across tensors."""

    def __init__(self, shapes: list[tuple[int, ...]], seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tensors = nn.ParameterList(
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
        )
        self.norm = nn.LayerNorm(3).double()  # for the method that perturbs normalisation layers only
        self.inputs = torch.randn(7, sum(p.numel() for p in self.parameters()), generator=generator).double()

    def losses(self, flat: torch.Tensor, chosen) -> torch.Tensor:
        projected = self.inputs[chosen] @ flat / flat.numel() ** 0.5
        return torch.log(torch.cosh(projected - 1)) + 0.1 * (flat**2).mean()


HYPER = {
    "alpha": st.floats(0, 1),
    "adaptive": st.booleans(),
    "eta": st.floats(0, 0.1),
    "gamma": st.floats(0.05, 0.95),
    "decouple": st.booleans(),
    "max_norm": st.none() | st.floats(0.01, 10),
    "b": st.floats(0, 1),
    "sigma": st.floats(0, 1),
    "lmbda": st.floats(0, 1),
    "theta": st.floats(0.05, 1),
    "k": st.integers(1, 4),
    "beta": st.floats(0.1, 1),
    "p": st.floats(0, 1),
    "delta": st.floats(0, 0.95),
    "lambda_1": st.floats(-2, 2),
    "lambda_2": st.floats(-2, 2),
    "quantile": st.floats(0, 0.99),
    "examples": st.integers(1, 10**6),
}
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=5)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shapes_and_hyper_parameters_equal_the_reference(name, data):
    shapes, seed = data.draw(SHAPES), data.draw(st.integers(0, 2**16))
    options = {key: data.draw(HYPER.get(key, st.floats(0.05, 0.95)), label=key) for key in METHODS[name].option_names}
    if name == "looksam":
        options["adaptive"] = False  # the reference has no other form of it
    rho = data.draw(st.floats(0.05 if name == "esam" else 0, 1), label="rho")  # no losses that are equal
    base_options = {"lr": data.draw(st.floats(1e-3, 0.3)), "momentum": data.draw(st.sampled_from([0.5, 0.9]))}
    base_options["weight_decay"] = data.draw(st.sampled_from([0.0, 0.01]))
    model = Bowls(shapes, seed)
    arguments = ({"rho": rho} if METHODS[name].perturbs else {}) | ARGUMENTS.get(name, {})
    engine = method(name)(
        model.named_parameters(), torch.optim.SGD, model=model, **arguments, **options, **base_options
    )
    names = [n for n, _ in model.named_parameters()]
    if name in ("looksam", "sam_every_k"):
        options.pop("adaptive")
        engine.adaptive = False
    plain = reference_for(name, model, names, reference.SGDBase(**base_options), rho, **options)

    def closure(chosen=slice(None)):
        losses = model.losses(torch.cat([p.reshape(-1) for p in model.parameters()]), chosen)
        if losses.requires_grad:
            engine.zero_grad()
        return end(engine, losses)

    def at(w, examples=None, gradient=True):
        tensors = {n: torch.tensor(w[n], requires_grad=True) for n in names}
        chosen = slice(None) if examples is None else torch.as_tensor(examples)
        losses = model.losses(torch.cat([x.reshape(-1) for x in tensors.values()]), chosen)
        found = torch.autograd.grad(losses.mean(), list(tensors.values()))
        g = {n: x.numpy() for n, x in zip(names, found, strict=True)} if gradient else None
        return (losses.detach().numpy(), g) if name == "esam" else (losses.mean().item(), g)

    w = weights(model)
    for _ in range(4):
        _, w = plain.step(w, at)
        engine.step(closure)
    for key, value in weights(model).items():
        np.testing.assert_allclose(value, w[key], rtol=0, atol=1e-9, err_msg=key)


def test_there_are_methods_to_prove():
    assert len(METHODS) >= 16 and len(TWICE) >= 14
