"""A study's comparison: what is paired with what, what is left out, and how it is said."""

import pytest

from sam_bench.report.comparison import Comparison


def records(errors: dict[int, float | None]) -> list[dict]:
    """Of one row; None for a run that diverged."""
    return [
        {"seed": seed, "status": "diverged" if error is None else "finished", "test_error": error or 90.0}
        for seed, error in errors.items()
    ]


ROWS = {
    "SGD": records({0: 10.0, 1: 12.0, 2: 11.0}),
    "SAM": records({0: 9.0, 1: 10.0, 2: None}),
    "lost": records({0: None, 1: None, 2: None}),
    "ASAM": records({2: 10.5, 1: 11.5, 0: 9.5}),
}


def test_runs_are_paired_by_their_seeds_and_those_that_diverged_are_left_out_and_said():
    found = Comparison.of(ROWS, ["SGD", "SAM"])
    assert found.found["SGD"]["SAM"].differences == (-1.0, -2.0)
    assert found.found["SGD"]["ASAM"].differences == (-0.5, -0.5, -0.5)
    assert "lost" not in found.found["SGD"]
    assert found.diverged == {"SAM": 1, "lost": 3}
    table, about = found.as_markdown().strip().split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["", "less SGD", "less SAM"]
    assert [row[0] for row in cells[2:]] == list(ROWS)
    assert cells[2][1] == "–" and cells[4][1:] == ["–", "–"]
    assert cells[5][1] == "−0.50 (−0.50 to −0.50): better"
    assert "(2 or 3 seeds)" in about and about.endswith("left out: SAM 1, lost 3.")
    frame = found.as_frame()
    assert list(zip(frame["row"], frame["baseline"], strict=True)) == [
        ("SAM", "SGD"),
        ("ASAM", "SGD"),
        ("SGD", "SAM"),
        ("ASAM", "SAM"),
    ]


def test_of_one_seed_there_is_a_difference_and_no_interval():
    found = Comparison.of({"SGD": records({0: 10.0}), "SAM": records({0: 9.25})}, ["SGD"])
    assert "| −0.75  " in found.as_markdown()


def test_a_baseline_that_diverged_is_compared_with_nothing():
    found = Comparison.of({"SGD": records({0: None}), "SAM": records({0: 9.0})}, ["SGD"])
    assert found.found == {"SGD": {}} and found.diverged == {"SGD": 1}
    assert "| SAM | –        |" in found.as_markdown()
    assert found.as_frame().empty


def test_a_baseline_that_is_no_row_is_an_error():
    with pytest.raises(KeyError):
        Comparison.of(ROWS, ["SGDD"])
