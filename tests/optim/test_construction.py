"""What an optimizer may be constructed with, and how it refuses the rest: by name."""

import inspect

import pytest
import torch

from sam_bench import ESAM, GNP, GSAM, MSAM, SAM, WSAM, LookSAM, SAMEveryK
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import ARGUMENTS, PERTURBING, network, wrap

POSITIONAL = ["params", "base_optimizer", "rho"]


@pytest.mark.parametrize("name", METHODS)
def test_everything_after_the_radius_is_given_by_name(name):
    parameters = inspect.signature(method(name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == (POSITIONAL if METHODS[name].perturbs else POSITIONAL[:2])
    model = network()
    with pytest.raises(TypeError, match="positional"):
        method(name)(model.parameters(), torch.optim.SGD, 0.05, model, lr=0.1)


@pytest.mark.parametrize("name", PERTURBING)
def test_a_module_in_the_radiuss_place_is_refused_by_name(name):
    model = network()
    with pytest.raises(
        TypeError,
        match=r"rho is a module \(Sequential\), .* a finite number that is at least 0: give the module as model=",
    ):
        method(name)(model.named_parameters(), torch.optim.SGD, model, lr=0.1, model=model, **ARGUMENTS.get(name, {}))


OWN = [(name, option) for name, entry in METHODS.items() for option in entry.option_names]


@pytest.mark.parametrize(("name", "option"), [*OWN, ("sam", "sync_perturbation"), ("sam", "clip_norm")])
def test_a_module_where_a_number_or_a_flag_belongs_is_refused_by_name(name, option):
    model = network()
    with pytest.raises(TypeError, match=f"{option} is a module .Sequential., .*: give the module as model="):
        wrap(model, name, **{option: model})


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda p: LookSAM(p, torch.optim.SGD, k=2.5, lr=0.1), TypeError, "k=2.5 must be an integer"),
        (lambda p: LookSAM(p, torch.optim.SGD, k=2.0, lr=0.1), TypeError, "k=2.0 must be an integer"),
        (lambda p: SAMEveryK(p, torch.optim.SGD, k=True, lr=0.1), TypeError, "k=True must be an integer"),
        (
            lambda p: SAMEveryK(p, torch.optim.SGD, k=-1, lr=0.1),
            ValueError,
            "k=-1 must be an integer that is at least 1",
        ),
        (lambda p: ESAM(p, torch.optim.SGD, seed=0.5, lr=0.1), TypeError, "seed=0.5 must be an integer"),
        (lambda p: ESAM(p, torch.optim.SGD, seed=2**32, lr=0.1), ValueError, "seed=4294967296"),
        (lambda p: SAM(p, torch.optim.SGD, True, lr=0.1), TypeError, "rho=True must be a finite number"),
        (
            lambda p: SAM(p, torch.optim.SGD, torch.tensor([0.05]), lr=0.1),
            TypeError,
            "rho=tensor.* must be a finite number",
        ),
        (
            lambda p: SAM(p, torch.optim.SGD, torch.tensor(True), lr=0.1),
            TypeError,
            "rho=tensor.* must be a finite number",
        ),
        (lambda p: SAM(p, torch.optim.SGD, "0.05", lr=0.1), TypeError, "rho='0.05' must be a finite number"),
        (
            lambda p: SAM([{"params": p, "rho": "x"}], torch.optim.SGD, lr=0.1),
            TypeError,
            "rho='x' must be a finite number",
        ),
        (lambda p: SAM(p, torch.optim.SGD, start=-1, lr=0.1), ValueError, "start=-1 must be an integer that is at"),
        (lambda p: SAM(p, torch.optim.SGD, start=0.5, lr=0.1), TypeError, "start=0.5 must be an integer"),
        (
            lambda p: MSAM(p, torch.optim.SGD, start=1, lr=0.1, momentum=0.9),
            ValueError,
            "start=1 needs a method with a second pass, and MSAM has none",
        ),
        (lambda p: SAM(p, torch.optim.SGD, adaptive=1, lr=0.1), TypeError, "adaptive=1 must be True or False"),
        (lambda p: WSAM(p, torch.optim.SGD, decouple="no", lr=0.1), TypeError, "decouple='no' must be True or False"),
        (lambda p: GNP(p, torch.optim.SGD, b=None, lr=0.1), TypeError, "b=None must be a finite number"),
        (
            lambda p: GSAM(p, torch.optim.SGD, alpha=float("inf"), lr=0.1),
            ValueError,
            "alpha=inf must be a finite number",
        ),
        (lambda p: GSAM(p, torch.optim.SGD, lr_max="1", lr=0.1), TypeError, "lr_max='1' must be a finite number"),
    ],
)
def test_what_is_no_number_flag_or_integer_is_refused_by_name(make, error, said):
    with pytest.raises(error, match=said):
        make(list(network().parameters()))
