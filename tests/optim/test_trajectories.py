"""Tests of the methods' steps against the references, which share no code with the engine."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sam_bench.optim.registry import METHODS, method
from tests.optim import plain_training as plain_bases
from tests.optim.plain_problem import Oracle, make_oracle, make_plain_training
from tests.optim.problem import (
    ARGUMENTS,
    CUT,
    OPTIONS,
    PERTURBING,
    RADII,
    SGD,
    TWICE,
    closure_for,
    finish_closure,
    groups,
    network,
    train,
    weights,
    wrap,
)

ADAMW = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.05}
BASES = {"sgd": (torch.optim.SGD, plain_bases.SGD, SGD), "adamw": (torch.optim.AdamW, plain_bases.AdamW, ADAMW)}

#: Forms of methods that have several: name and options.
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


def compare(
    name: str,
    base: str,
    fused: bool,
    steps: int,
    *,
    base_options: dict | None = None,
    parts: list[slice] | None = None,
    start: int = 0,
    clip_norm: float | None = None,
    **changes,
) -> None:
    """Compare engine and reference after each step, on a network with two groups and a frozen parameter."""
    base_class, plain_base_class, base_settings = BASES[base]
    base_settings = base_settings | (base_options or {})
    options = OPTIONS.get(name, {}) | changes | {"clip_norm": clip_norm}

    model = network()
    model[1].bias.requires_grad_(False)
    grouped = groups(model)
    for group in grouped:
        group["rho"] *= RADII.get(name, 0.05) / 0.1

    # The reference's weights are in the engine's order, in which random numbers are drawn for them.
    w, rho, lr, weight_decay = {}, {}, {}, {}
    for group in grouped:
        for key, p in group["params"]:
            if p.requires_grad:
                w[key] = weights(model)[key]
                rho[key] = group["rho"]
                lr[key] = group.get("lr", base_settings["lr"])
                weight_decay[key] = group.get("weight_decay", base_settings["weight_decay"])
    plain_base = plain_base_class(**base_settings | {"lr": lr, "weight_decay": weight_decay})
    plain = make_plain_training(name, plain_base, w, rho, start=start, **options)
    engine = wrap(model, name, 0.0, base_class, fused, grouped, start=start, **options, **base_settings)

    oracles = []
    for t in range(steps):
        oracles.append(make_oracle(model, t, parts))
        plain.step(oracles[t])
        if parts is None:
            loss = engine.step(closure_for(model, engine, t)).item()
        else:
            closures = [closure_for(model, engine, t, part) for part in parts]
            loss = engine.step(closures, [(part.stop - part.start) / 12 for part in parts]).item()

        assert loss == pytest.approx(oracles[t].loss, abs=1e-10)
        assert_close(model, plain.w, 1e-10)

    assert engine.passes == pytest.approx(sum(each.passes for each in oracles))
    assert engine.skipped.item() == 0


def assert_close(model: nn.Module, w: dict[str, np.ndarray], tolerance: float) -> None:
    """Check that the model's weights equal the reference's."""
    present = weights(model)
    for key, expected in w.items():
        np.testing.assert_allclose(present[key], expected, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_fifty_steps_equal_reference(name):
    compare(name, "sgd", True, 50)


@pytest.mark.parametrize("name", METHODS)
def test_steps_on_adamw_equal_reference(name):
    compare(name, "adamw", False, 15)


@pytest.mark.parametrize("name", TWICE)
def test_steps_with_late_start_equal_reference(name):
    compare(name, "sgd", False, 10, parts=[slice(0, 5), slice(5, 12)] if name in CUT else None, start=4)


@pytest.mark.parametrize("form", FORMS)
def test_steps_of_each_form_equal_reference(form):
    name, options = FORMS[form]
    compare(name, "sgd", True, 15, **options)


@pytest.mark.parametrize("name", METHODS)
def test_clipped_nesterov_steps_equal_reference(name):
    compare(name, "sgd", True, 10, base_options={"nesterov": True}, clip_norm=0.3)


@pytest.mark.parametrize("name", CUT)
def test_steps_in_parts_equal_reference(name):
    compare(name, "sgd", True, 10, parts=[slice(0, 5), slice(5, 10), slice(10, 12)])


@pytest.mark.parametrize("name", PERTURBING)
def test_changed_radius_and_rate_are_used_at_once(name):
    model = network()
    engine = wrap(model, name)
    base = plain_bases.SGD(**SGD)
    plain = make_plain_training(name, base, weights(model), 0.0, **OPTIONS.get(name, {}))

    for t in range(10):
        base.lr = 0.1 / (t + 1)
        plain.rho = RADII.get(name, 0.05) * (1 - 0.08 * t)
        for group in engine.param_groups:
            group.update(lr=base.lr, rho=plain.rho)
        plain.step(make_oracle(model, t))
        train(model, engine, 1, first=t)

    assert_close(model, plain.w, 1e-10)


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

    def losses(self, tensors: dict[str, Tensor], examples=slice(None)) -> Tensor:
        flat = torch.cat([x.reshape(-1) for x in tensors.values()])
        projected = self.inputs[examples] @ flat / flat.numel() ** 0.5
        return torch.log(torch.cosh(projected - 1)) + 0.1 * (flat**2).mean()


#: Values of the methods' options; those of options that are not here are between 0.05 and 0.95.
HYPER_PARAMETERS = {
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
    "delta": st.just(0.0) | st.floats(0.05, 0.95),  # closer to 0, rounding decides whether AE-SAM takes a second pass
    "lambda_1": st.floats(-2, 2),
    "lambda_2": st.floats(-2, 2),
    "quantile": st.floats(0, 0.99),
    "examples": st.integers(1, 10**6),
}
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=5)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shapes_and_options_equal_reference(name, data):
    model = Bowls(data.draw(SHAPES), data.draw(st.integers(0, 2**16)))
    options = {
        key: data.draw(HYPER_PARAMETERS.get(key, st.floats(0.05, 0.95)), label=key)
        for key in METHODS[name].option_names
    }
    rho = data.draw(st.floats(0.05 if name == "esam" else 0, 1), label="rho")  # ESAM compares losses: none are equal
    base_options = {
        "lr": data.draw(st.floats(1e-3, 0.3)),
        "momentum": data.draw(st.sampled_from([0.5, 0.9])),
        "weight_decay": data.draw(st.sampled_from([0.0, 0.01])),
    }
    arguments = ({"rho": rho} if METHODS[name].perturbs else {}) | ARGUMENTS.get(name, {})
    engine = method(name)(
        model.named_parameters(), torch.optim.SGD, model=model, **arguments, **options, **base_options
    )
    plain = make_plain_training(name, plain_bases.SGD(**base_options), weights(model), rho, **options)

    def closure(examples=slice(None)):
        losses = model.losses(dict(model.named_parameters()), examples)
        if losses.requires_grad:
            engine.zero_grad()
        return finish_closure(engine, losses)

    for _ in range(4):
        plain.step(Oracle(model.losses))
        engine.step(closure)

    assert_close(model, plain.w, 1e-9)


def test_enough_methods_are_compared():
    assert len(METHODS) >= 16 and len(TWICE) >= 14
