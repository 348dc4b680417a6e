"""Tests of the sentence that names an experiment's protocol."""

import pytest

from sam_bench.cli import compose
from sam_bench.report.protocol import protocol
from tests.report.table_records import record


def test_protocol_marks_what_not_all_rows_share():
    configs = [record("sam", 0, 3.0)["config"] for _ in range(2)]
    configs[1]["optimizer"]["base"]["lr"] = 0.2
    sentence = protocol(configs, "sam_example")
    assert "momentum 0.9" in sentence
    assert "lr 0.1 (not in all rows)" in sentence


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["experiment=closure_example"], "augmentation crop (reflect padding) + flip, normalised"),
        (["experiment=closure_example"], "cosine schedule by the epoch, warm-up 5 from 0.25 of the rate, base"),
        (["experiment=noisy40", "optimizer.start_at=0.8"], "the method from 0.8 of the run on, base optimizer"),
    ],
)
def test_protocol_names_settings(overrides, text):
    assert text in protocol([compose.compose(overrides).identity()], "a_preset")


def test_protocol_marks_late_start_of_some_rows():
    configs = [compose.compose(["experiment=noisy40", f"optimizer.start_at={start}"]).identity() for start in (0.8, 0)]
    assert "0.8 of the run on (not in all rows)" in protocol(configs, "noisy40")
