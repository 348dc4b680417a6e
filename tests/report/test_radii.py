"""Published radii: those that are in `conf/` are found in the table."""

import pytest

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.report.radii import DEFAULT, RADII

USED = [(radius, name) for radius in RADII for name in radius.used]


@pytest.mark.parametrize(("radius", "name"), USED, ids=lambda value: getattr(value, "method", value))
def test_a_radius_stands_where_the_table_says(radius, name):
    preset = [] if name == DEFAULT else [f"experiment={name}"]
    assert compose([*preset, f"optimizer={radius.method}"]).optimizer.rho == radius.rho


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.perturbs])
def test_every_default_has_a_source(name):
    assert [radius for radius in RADII if radius.method == name and DEFAULT in radius.used]


PRESETS = ("sam_example", "gsam_example", "asam_official", "wsam_example", "closure_example", "wasam_cifar10")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_publications_preset_has_one_of_its_radii(preset):
    config = compose([f"experiment={preset}"]).optimizer
    assert (config.name, config.rho) in {(r.method, r.rho) for r in RADII if preset in r.used}
