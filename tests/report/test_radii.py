"""Tests of the table of published radii, against the presets in `conf/`."""

import pytest

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.report.radii import DEFAULT, RADII

#: A radius of the table, and a preset that uses it.
USED = [(radius, name) for radius in RADII for name in radius.used]


@pytest.mark.parametrize(("radius", "name"), USED, ids=lambda value: getattr(value, "method", value))
def test_radius_is_that_of_preset(radius, name):
    preset = [] if name == DEFAULT else [f"experiment={name}"]
    assert compose([*preset, f"optimizer={radius.method}"]).optimizer.rho == radius.rho


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.perturbs])
def test_default_radius_has_a_source(name):
    assert [radius for radius in RADII if radius.method == name and DEFAULT in radius.used]


#: Presets that follow a publication.
PRESETS = ("sam_example", "gsam_example", "asam_official", "wsam_example", "closure_example", "wasam_cifar10")


@pytest.mark.parametrize("preset", PRESETS)
def test_published_preset_has_a_published_radius(preset):
    config = compose([f"experiment={preset}"]).optimizer
    assert (config.name, config.rho) in {(radius.method, radius.rho) for radius in RADII if preset in radius.used}
