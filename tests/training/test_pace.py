"""What a run says of its speed: that it will take hours, and that it has become slow."""

import pytest

from sam_bench.training.pace import Pace


@pytest.fixture
def said(caplog):
    """Lets time pass: seconds of steps, epoch by epoch; returns what was said."""

    def of(*epochs: list[float], left: int | None = None) -> list[str]:
        pace = Pace()
        for steps in epochs:
            seconds = 0.0
            for position, each in enumerate(steps, start=1):
                seconds += each
                pace.after_step(seconds, position, left)
        return [record.getMessage() for record in caplog.records]

    return of


def test_a_long_run_says_how_long_it_will_take(said):
    (text,) = said([9.0] + [1.0] * 10, left=7200)
    assert "about 2 hours" in text  # the first step, which warms up, does not count


def test_a_run_that_goes_on_says_nothing_of_it(said):
    assert said([9.0] + [1.0] * 10, left=None) == []


def test_a_short_run_says_nothing(said):
    assert said([1.0] * 100, left=3000) == []


@pytest.mark.parametrize("epochs", [1, 20])
def test_steps_that_become_far_slower_are_told_of_once(said, epochs):
    slow = [[4.0] * (100 // epochs)] * epochs
    (text,) = said([1.0] * 20, *slow)
    assert "4.0 times as long" in text and "OMP_NUM_THREADS=1" in text


@pytest.mark.parametrize("slow", [[2.0] * 100, [1.0] * 9 + [8.0] + [1.0] * 90])
def test_a_little_slower_or_one_slow_step_is_nothing_to_tell_of(said, slow):
    assert said([1.0] * 20, slow) == []


def test_short_epochs_add_up(said):
    assert len(said(*[[0.1] * 5] * 10, *[[0.5] * 5] * 40)) == 1


def test_epochs_of_one_step_are_measured(said):
    (text,) = said(*[[60.0]] * 30, left=120)
    assert "about 2 hours" in text
