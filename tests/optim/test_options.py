"""Tests of the methods' options: registry, classes, presets and --help agree on them."""

import math

import numpy as np
import pytest
import torch

from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.optim.options import Option
from sam_bench.optim.registry import METHODS, constructor_parameters, method
from tests.conftest import CONF
from tests.optim.problem import network, wrap

#: Each method with each of its own options.
OPTIONS = [
    pytest.param(name, option, id=f"{name}-{option.name}") for name, e in METHODS.items() for option in e.options
]

#: What to add to each kind of bound for a number that is outside.
BEYOND = {"ge": -0.5, "gt": 0, "le": 0.5, "lt": 0}

#: Defaults of a class that are not those of its preset, by method. Class and preset say so.
DIFFERENT_DEFAULTS = {"gsam": {"rho", "rho_min", "adaptive"}, "bsam": {"examples"}}


def numbers_outside(option: Option) -> list[float]:
    """Return numbers that an option does not take: one beyond each bound, and for floats infinity and NaN."""
    bounds = {name: getattr(option, name) for name in BEYOND}
    numbers = [bound + BEYOND[name] for name, bound in bounds.items() if math.isfinite(bound)]
    return [math.floor(n) for n in numbers] if option.kind is int else [*numbers, math.inf, math.nan]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_class_and_command_line_refuse_same_values(name, option):
    for value in ["x"] if option.kind is bool else ["x", *numbers_outside(option)]:
        with pytest.raises((TypeError, ValueError)) as by_class:
            wrap(network(), name, **{option.name: value})
        with pytest.raises(ConfigError) as by_command:
            compose.compose([f"optimizer={name}", f"optimizer.{option.name}={value}"])
        assert str(by_command.value) == f"optimizer.{by_class.value}"
        assert f"{option.name}={value!r} must be {option.rule}" in str(by_class.value)


def test_help_describes_every_option(command):
    _, out, _ = command("--help")
    for entry in METHODS.values():
        section = out.partition(f"optimizer={entry.name}\n")[2].partition("\noptimizer=")[0]
        for option in entry.options:
            assert f"{option.name:<9} {option.meaning} ({option.rule})" in section


@pytest.mark.parametrize("name", METHODS)
def test_class_and_preset_have_same_defaults(name):
    config = compose.compose([f"optimizer={name}"]).optimizer
    preset = vars(config) | config.options()
    own = (*METHODS[name].option_names, *(("rho", "rho_min") if METHODS[name].perturbs else ()))
    parameters = constructor_parameters(method(name))
    defaults = {key: parameters[key].default for key in own if key in parameters}
    assert set(METHODS[name].option_names) <= set(defaults)

    different = {key for key, default in defaults.items() if default != preset[key]}
    assert different == DIFFERENT_DEFAULTS.get(name, set())
    preset_text = (CONF / "optimizer" / f"{name}.yaml").read_text()
    for key in different:
        assert f"{key}={preset[key]}" in method(name).__doc__
        assert f"{key}={defaults[key]}" in preset_text


def test_rule_describes_bounds():
    assert Option("a", float, "", ge=0, lt=1).rule == "a finite number that is at least 0 and below 1"
    assert Option("a", float, "").rule == "a finite number"
    assert Option("a", float, "", gt=0, optional=True).rule == "a finite number that is above 0, or None (null in YAML)"
    assert Option("a", int, "", ge=1).rule == "an integer that is at least 1"
    assert Option("a", bool, "").rule == "True or False"


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float16)])
def test_float_option_takes_any_scalar(value):
    Option("a", float, "", ge=0, lt=1).check(value)


@pytest.mark.parametrize("value", [True, None, "0.5", [0.5], torch.tensor([0.5]), torch.tensor(1), np.array(0.5), {}])
def test_float_option_refuses_others(value):
    with pytest.raises(TypeError, match="a="):
        Option("a", float, "", ge=0).check(value)


def test_whole_number_of_float_option_becomes_float():
    assert repr(Option("a", float, "").read(1)) == "1.0"
    assert repr(Option("a", int, "").read(1)) == "1"
    config = compose.compose(["optimizer=gsam", "optimizer.alpha=1"])
    assert config == compose.compose(["optimizer=gsam", "optimizer.alpha=1.0"])
    assert hash(config) == hash(compose.compose(["optimizer=gsam", "optimizer.alpha=1.0"]))
    assert repr(config.identity()["optimizer"]["alpha"]) == "1.0"
