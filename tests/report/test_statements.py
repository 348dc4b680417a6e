"""Statements: what was planned, in its order, and the best; none stronger than its interval."""

from sam_bench.report.statements import across, statements
from tests.report.test_comparison import ASAM, CHEAP, LONGER, ROWS, SAM, SGD, compared, row


def test_what_was_planned_is_said_in_its_order_and_then_the_best():
    told = statements(compared(planned=[(ASAM, LONGER), (CHEAP, SGD), (LONGER, SGD)]))
    *planned, best = told
    assert [each.text.partition(" (")[0] for each in planned] == [
        "ASAM and SGD, longer are not separated at equal passes and seconds: +0.00 points",
        "Cheap and SGD are not separated at equal epochs and passes and seconds: −0.67 points",
        "SGD, longer and SGD are not separated: −0.50 points",
    ]
    assert best.text == "ASAM (lowest error of 2 compared with SAM) − SAM: +1.00 points, of too few seeds to tell"
    assert [each.verdict for each in told] == ["not separated"] * 3 + [None]


def test_better_and_worse_are_said_where_the_interval_excludes_nothing():
    worse = row("Worse", {0: 20.0, 1: 22.1, 2: 21.0}, passes=2)
    told = statements(compared((*ROWS, worse), planned=[(worse, SGD), (ASAM, SGD)]))
    assert told[0].verdict == "worse"
    assert told[0].text.startswith("Worse is worse than SGD at equal epochs, by 10.03 points (+9.")
    assert told[1].text == "ASAM is better than SGD at equal epochs, by 0.50 points (−0.50 to −0.50)"


def test_what_was_planned_and_is_best_is_said_once():
    best = row("Best", {0: 8.0, 1: 9.1, 2: 7.0}, passes=2)
    told = [each.text.partition(":")[0] for each in statements(compared((SGD, SAM, best), planned=[(best, SAM)]))]
    assert told == ["Best (lowest error of 1 compared with SAM) − SAM"]


def test_studies_stand_side_by_side_each_with_its_own_best():
    rows = (SGD, LONGER, SAM, ASAM)
    found = across(
        {"one": compared(rows, planned=[(SAM, SGD), (ASAM, SAM)]), "two": compared(planned=[(ASAM, SAM), (CHEAP, SGD)])}
    )
    told = {line: [each and f"{row}{each.mean:.2f}" for row, each in cells.values()] for line, cells in found.items()}
    assert told == {
        "SAM − SGD at equal epochs": ["-1.50", None],
        "ASAM − SAM": ["1.00", "1.00"],
        "Cheap − SGD at equal epochs and passes and seconds": [None, "-0.67"],
        "the other row with the lowest error − SAM": ["ASAM: 1.00", "ASAM: 1.00"],
    }


def test_of_few_seeds_nothing_is_claimed():
    rows = (row("SGD", {0: 10.0, 1: 11.0}), row("SAM", {0: 9.0, 1: 10.0}))
    (told,) = statements(compared(rows, rows[:1], None, [(rows[1], rows[0])]))
    assert told.text == "SAM − SGD at equal epochs and passes and seconds: −1.00 points, of too few seeds to tell"
    assert told.verdict is None
