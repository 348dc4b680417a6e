"""Tests of the function `plugin`, which describes a method's class."""

import pytest

from sam_bench import AESAM, ESAM, MSAM, SAM, SAMPa
from sam_bench.optim.registry import ADAPTIVE
from sam_bench.plugins import plugin
from tests.half_sam import ABOUT, SHARE, HalfSAM


@pytest.mark.parametrize("name", ["", "Half", "half-sam", "1half"])
def test_plugin_with_bad_name_is_refused(name):
    with pytest.raises(ValueError, match="small letters"):
        plugin(HalfSAM, name, **ABOUT)


def test_plugin_describes_class_by_default():
    entries = [plugin(cls, "other", **ABOUT) for cls in (HalfSAM, ESAM, MSAM)]
    assert [entry.passes for entry in entries] == ["2", "2", "1"]
    assert [entry.two_passes for entry in entries] == [True, True, False]
    assert [entry.takes_parts for entry in entries] == [True, True, True]
    assert not plugin(AESAM, "other", **ABOUT).takes_parts


@pytest.mark.parametrize(("cls", "passes"), [(SAM, "1"), (MSAM, "2"), (MSAM, "1.0")])
def test_plugin_with_wrong_passes_is_refused(cls, passes):
    with pytest.raises(ValueError, match=f"passes='{passes}' must be \"1\" if"):
        plugin(cls, "other", passes=passes, **ABOUT)


def test_plugin_offers_option_of_parent_class():
    entry = plugin(HalfSAM, "half_sam", options=(SHARE, ADAPTIVE), **ABOUT)
    assert dict(entry.defaults) == {"rho": 0.07, "share": 0.5, "adaptive": False}


def test_plugin_is_captured_only_if_capturable():
    described, capturable = (
        plugin(HalfSAM, "half_sam", options=(SHARE,), capturable=value, **ABOUT) for value in (False, True)
    )
    assert "capturable=True" in described.why_not_captured
    assert capturable.why_not_captured == ""
    assert "repeats" in plugin(SAMPa, "again", capturable=True, **ABOUT).why_not_captured
    assert "waits" in plugin(AESAM, "other", capturable=True, **ABOUT).why_not_captured
