"""Tests of what an optimizer may be constructed with."""

import inspect
from collections import OrderedDict

import pytest
import torch
from torch import nn

from sam_bench import ESAM, FSAM, GNP, GSAM, MSAM, SAM, SAMON, WSAM, LookSAM, OfficialASAM, SAMEveryK, VaSSO
from sam_bench.optim.registry import METHODS, method
from tests.optim.problem import ARGUMENTS, PERTURBING, network, wrap

#: Each method with each of its own options.
OPTIONS = [(name, option) for name, entry in METHODS.items() for option in entry.option_names]


def test_usual_arguments_are_taken():
    model = network()
    SAM(model.parameters(), torch.optim.SGD, rho=0.05, adaptive=False, model=None, lr=0.1, momentum=0.9)
    GSAM(model.parameters(), torch.optim.SGD, 0.1, rho_min=0.05, alpha=0.4, adaptive=False, model=model, lr=0.1)
    WSAM(model.parameters(), torch.optim.SGD, 0.05, gamma=0.9, decouple=True, model=model, lr=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_arguments_after_radius_are_keywords(name):
    parameters = inspect.signature(method(name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["params", "base_optimizer", *(["rho"] if METHODS[name].perturbs else [])]

    model = network()
    with pytest.raises(TypeError, match="positional"):
        method(name)(model.parameters(), torch.optim.SGD, 0.05, model, lr=0.1)


@pytest.mark.parametrize("name", PERTURBING)
def test_module_as_radius_is_refused(name):
    model = network()
    with pytest.raises(TypeError, match=r"rho is a module .* model="):
        method(name)(model.named_parameters(), torch.optim.SGD, model, lr=0.1, model=model, **ARGUMENTS.get(name, {}))


@pytest.mark.parametrize(("name", "option"), [*OPTIONS, ("sam", "sync_perturbation"), ("sam", "clip_norm")])
def test_module_as_option_is_refused(name, option):
    model = network()
    with pytest.raises(TypeError, match=f"{option} is a module .* model="):
        wrap(model, name, **{option: model})


@pytest.mark.parametrize(
    ("cls", "settings", "error", "match"),
    [
        (SAM, {"rho": -1.0}, ValueError, "rho=-1.0"),
        (SAM, {"rho": -0.1}, ValueError, "rho=-0.1"),
        (SAM, {"rho": float("nan")}, ValueError, "rho=nan"),
        (SAM, {"rho": float("inf")}, ValueError, "rho=inf"),
        (SAM, {"rho": True}, TypeError, "rho=True"),
        (SAM, {"rho": "0.05"}, TypeError, "rho='0.05'"),
        (SAM, {"rho": torch.tensor([0.05])}, TypeError, "rho=tensor"),
        (SAM, {"rho": torch.tensor(True)}, TypeError, "rho=tensor"),
        (SAM, {"adaptive": 1}, TypeError, "adaptive=1"),
        (SAM, {"batchnorm": "never"}, ValueError, "'never'"),
        (SAM, {"clip_norm": 0.0}, ValueError, "clip_norm=0.0"),
        (SAM, {"maximize": True}, ValueError, "maximize"),
        (SAM, {"model": "resnet"}, TypeError, "model='resnet'"),
        (SAM, {"momentun": 0.9}, TypeError, "momentun"),
        (SAM, {"start": -1}, ValueError, "start=-1"),
        (SAM, {"start": 0.5}, TypeError, "start=0.5"),
        (MSAM, {"start": 1, "momentum": 0.9}, ValueError, "start=1"),
        (MSAM, {"momentum": 0.0}, ValueError, "momentum"),
        (FSAM, {"lmbda": 2.0}, ValueError, "lmbda=2.0"),
        (VaSSO, {"theta": -1.0}, ValueError, "theta=-1.0"),
        (GNP, {"b": float("nan")}, ValueError, "b=nan"),
        (GNP, {"b": None}, TypeError, "b=None"),
        (GSAM, {"alpha": -3.0}, ValueError, "alpha=-3.0"),
        (GSAM, {"alpha": float("inf")}, ValueError, "alpha=inf"),
        (GSAM, {"rho": 0.1, "rho_min": 0.2}, ValueError, "rho_min=0.2"),
        (GSAM, {"rho_min": 0.0, "lr_min": 0.2}, ValueError, "lr_min=0.2"),
        (GSAM, {"lr_max": "1"}, TypeError, "lr_max='1'"),
        (WSAM, {"gamma": 1.0}, ValueError, "gamma=1.0"),
        (WSAM, {"max_norm": 0.0}, ValueError, "max_norm=0.0"),
        (WSAM, {"decouple": "no"}, TypeError, "decouple='no'"),
        (LookSAM, {"k": 0}, ValueError, "k=0"),
        (LookSAM, {"k": 2.5}, TypeError, "k=2.5"),
        (LookSAM, {"k": 2.0}, TypeError, "k=2.0"),
        (SAMEveryK, {"k": True}, TypeError, "k=True"),
        (SAMEveryK, {"k": -1}, ValueError, "k=-1"),
        (ESAM, {"beta": 0.0}, ValueError, "beta=0.0"),
        (ESAM, {"gamma": 1.5}, ValueError, "gamma=1.5"),
        (ESAM, {"seed": 0.5}, TypeError, "seed=0.5"),
        (ESAM, {"seed": 2**32}, ValueError, "seed=4294967296"),
        (OfficialASAM, {}, ValueError, "named_parameters"),
        (SAMON, {}, ValueError, "model="),
    ],
)
def test_bad_settings_are_refused(cls, settings, error, match):
    with pytest.raises(error, match=match):
        cls(network().parameters(), torch.optim.SGD, lr=0.1, **settings)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda m, p: SAM(p, torch.optim.SGD(p, lr=0.1), lr=0.1), TypeError, "instance already: give lr"),
        (lambda m, p: SAM(p[:1], torch.optim.SGD(p, lr=0.1)), ValueError, "other parameters"),
        (lambda m, p: SAM(p, torch.optim.LBFGS), ValueError, "LBFGS"),
        (lambda m, p: SAM(p, torch.optim.Adadelta), ValueError, "Adadelta"),
        (lambda m, p: SAM(p, "sgd"), TypeError, "base_optimizer='sgd'"),
        (
            lambda m, p: SAM(p, torch.optim.SGD, model=network(), lr=0.1),
            ValueError,
            "none of the .* parameters",
        ),
        (lambda m, p: SAM([{"params": p, "rho": -2.0}], torch.optim.SGD, lr=0.1), ValueError, "rho=-2.0"),
        (lambda m, p: SAM([{"params": p, "rho": "x"}], torch.optim.SGD, lr=0.1), TypeError, "rho='x'"),
        (lambda m, p: SAM([{"params": p, "maximize": True}], torch.optim.SGD, lr=0.1), ValueError, "maximize"),
        (lambda m, p: SAMON(m[4].parameters(), torch.optim.SGD, lr=0.1, model=m), ValueError, "none of the parameters"),
    ],
)
def test_bad_base_model_or_group_is_refused(make, error, match):
    model = network()
    with pytest.raises(error, match=match):
        make(model, list(model.parameters()))


def test_bad_radius_of_added_group_is_refused():
    optimizer = SAM(network().parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"rho=-1\.0"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": -1.0})


# The parameters that SAM-ON perturbs


class Scale(nn.Module):
    """A layer with a weight only, a vector or a matrix."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape))


class LlamaRMSNorm(Scale):
    """A normalisation layer that is none of torch's classes."""


class NormalisedLinear(Scale):
    """A layer that is named like a normalisation layer and is none."""


@pytest.mark.parametrize(
    ("layer", "name", "perturbed"),
    [
        (LlamaRMSNorm(6), "post", True),
        (Scale(6), "norm1", True),
        (Scale(6), "bn2", True),
        (Scale(6), "scale", False),
        (NormalisedLinear(6, 6), "post", False),
    ],
)
def test_sam_on_finds_normalisation_by_class_or_name(layer, name, perturbed):
    model = nn.Sequential(OrderedDict({"in": nn.LayerNorm(6), name: layer, "out": nn.Linear(6, 3)}))
    optimizer = SAMON(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
    assert (layer.weight in optimizer.perturbed) == perturbed
    assert model[0].weight in optimizer.perturbed and model[2].weight not in optimizer.perturbed
