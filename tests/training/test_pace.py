"""Tests of the warnings that a run will take hours, or has become slow."""

import itertools

import pytest

from sam_bench.training.pace import Pace


@pytest.fixture
def warnings_of(caplog):
    """Return a function that times steps of these seconds, by epoch, and returns the warnings."""

    def time_steps(*epochs: list[float], passes_left: int | None = None) -> list[str]:
        pace = Pace()
        for step_seconds in epochs:
            for position, seconds in enumerate(itertools.accumulate(step_seconds), start=1):
                pace.after_step(seconds, position, passes_left)
        return [record.getMessage() for record in caplog.records]

    return time_steps


def test_long_run_warns_of_hours(warnings_of):
    (text,) = warnings_of([9.0] + [1.0] * 10, passes_left=7200)
    assert "about 2 hours" in text  # without the first step, which is a warm-up


def test_run_without_estimate_does_not_warn(warnings_of):
    assert warnings_of([9.0] + [1.0] * 10, passes_left=None) == []


def test_short_run_does_not_warn(warnings_of):
    assert warnings_of([1.0] * 100, passes_left=3000) == []


@pytest.mark.parametrize("epochs", [1, 20])
def test_far_slower_steps_are_warned_of_once(warnings_of, epochs):
    slow = [[4.0] * (100 // epochs)] * epochs
    (text,) = warnings_of([1.0] * 20, *slow)
    assert "4.0 times as long" in text and "OMP_NUM_THREADS=1" in text


@pytest.mark.parametrize("slow", [[2.0] * 100, [1.0] * 9 + [8.0] + [1.0] * 90])
def test_little_slowdown_does_not_warn(warnings_of, slow):
    assert warnings_of([1.0] * 20, slow) == []


def test_short_epochs_are_measured_together(warnings_of):
    assert len(warnings_of(*[[0.1] * 5] * 10, *[[0.5] * 5] * 40)) == 1


def test_epochs_of_one_step_are_measured(warnings_of):
    (text,) = warnings_of(*[[60.0]] * 30, passes_left=120)
    assert "about 2 hours" in text
