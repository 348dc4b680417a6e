"""The settings of methods: what registry, classes, presets and --help say of them is one and the same."""

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

OWN = [pytest.param(name, option, id=f"{name}-{option.name}") for name, e in METHODS.items() for option in e.options]
BEYOND = {"ge": -0.5, "gt": 0, "le": 0.5, "lt": 0}
"""How far from a bound a number is outside."""

STATED = {"gsam": {"rho", "rho_min", "adaptive"}, "bsam": {"examples"}}
"""Defaults of a class that are not those of its preset, by method: class and preset say so."""


def outside(option: Option) -> list[float]:
    """Numbers that an option does not take: beyond each bound, and what is not finite."""
    bounds = {name: getattr(option, name) for name in BEYOND}
    numbers = [bound + BEYOND[name] for name, bound in bounds.items() if math.isfinite(bound)]
    return [math.floor(n) for n in numbers] if option.kind is int else [*numbers, math.inf, math.nan]


@pytest.mark.parametrize(("name", "option"), OWN)
def test_class_and_command_line_refuse_the_same_values_in_the_same_words(name, option):
    wrong = ["x"] if option.kind is bool else ["x", *outside(option)]
    for value in wrong:
        with pytest.raises((TypeError, ValueError)) as by_class:
            wrap(network(), name, **{option.name: value})
        with pytest.raises(ConfigError) as by_command:
            compose.compose([f"optimizer={name}", f"optimizer.{option.name}={value}"])
        assert str(by_command.value) == f"optimizer.{by_class.value}"
        assert f"{option.name}={value!r} must be {option.rule}" in str(by_class.value)


def test_help_says_what_every_setting_means_and_may_be(command):
    _, out, _ = command("--help")
    for entry in METHODS.values():
        section = out.partition(f"optimizer={entry.name}\n")[2].partition("\noptimizer=")[0]
        for option in entry.options:
            assert f"{option.name:<9} {option.meaning} ({option.rule})" in section


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_of_a_class_are_those_of_its_preset_or_both_say_so(name):
    config = compose.compose([f"optimizer={name}"]).optimizer
    preset = vars(config) | config.options()
    own = (*METHODS[name].option_names, *(("rho", "rho_min") if METHODS[name].perturbs else ()))
    parameters = constructor_parameters(method(name))
    given = {key: parameters[key].default for key in own if key in parameters}
    assert set(METHODS[name].option_names) <= set(given)
    different = {key for key, default in given.items() if default != preset[key]}
    assert different == STATED.get(name, set())
    comments = (CONF / "optimizer" / f"{name}.yaml").read_text()
    for key in different:
        assert f"{key}={preset[key]}" in method(name).__doc__
        assert f"{key}={given[key]}" in comments


def test_a_rule_is_words():
    assert Option("a", float, "", ge=0, lt=1).rule == "a finite number that is at least 0 and below 1"
    assert Option("a", float, "").rule == "a finite number"
    assert Option("a", float, "", gt=0, optional=True).rule == "a finite number that is above 0, or None (null in YAML)"
    assert Option("a", int, "", ge=1).rule == "an integer that is at least 1"
    assert Option("a", bool, "").rule == "True or False"


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float16)])
def test_any_scalar_is_a_number(value):
    Option("a", float, "", ge=0, lt=1).check(value)


@pytest.mark.parametrize("value", [True, None, "0.5", [0.5], torch.tensor([0.5]), torch.tensor(1), np.array(0.5), {}])
def test_nothing_else_is(value):
    with pytest.raises(TypeError, match=r"a=.* must be a finite number"):
        Option("a", float, "", ge=0).check(value)


def test_a_configuration_keeps_whole_numbers_as_the_numbers_they_are():
    assert repr(Option("a", float, "").read(1)) == "1.0"
    assert repr(Option("a", int, "").read(1)) == "1"
    config = compose.compose(["optimizer=gsam", "optimizer.alpha=1"])
    assert config == compose.compose(["optimizer=gsam", "optimizer.alpha=1.0"])
    assert hash(config) == hash(compose.compose(["optimizer=gsam", "optimizer.alpha=1.0"]))
    assert repr(config.identity()["optimizer"]["alpha"]) == "1.0"
