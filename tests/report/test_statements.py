"""Statements: what was planned, in its order, and the best; none stronger than its interval."""

from sam_bench.report.statements import statements
from tests.report.test_comparison import ASAM, CHEAP, LONGER, ROWS, SAM, SGD, compared, row


def test_what_was_planned_is_said_in_its_order_and_then_the_best():
    told = statements(compared(planned=[(SAM, LONGER), (CHEAP, SGD), (LONGER, SGD)]))
    assert [each.text.partition(" (")[0] for each in told] == [
        "SAM has 0.75 points less error than SGD, longer, at equal passes and seconds",
        "Cheap has 0.67 points less error than SGD, at equal epochs and passes and seconds",
        "SGD, longer has 0.50 points less error than SGD",
        "Cheap has the least error of the 2 rows compared with SAM, 1.00 points more than it",
    ]
    assert [each.verdict for each in told] == ["not separated"] * 4
    assert all("): not separated" in each.text for each in told)


def test_better_and_worse_are_said_where_the_interval_excludes_nothing():
    worse = row("Worse", {0: 20.0, 1: 22.1, 2: 21.0}, passes=2)
    told = statements(compared((*ROWS, worse), planned=[(worse, SGD), (ASAM, SGD)]))
    assert told[0].verdict == "worse" and told[0].text.endswith(": worse")
    assert told[0].text.startswith("Worse has 10.03 points more error than SGD, at equal epochs (+9.")
    assert told[1].text == "ASAM has 0.50 points less error than SGD, at equal epochs (−0.50 to −0.50): better"


def test_of_one_seed_nothing_is_claimed():
    rows = (row("SGD", {0: 10.0}), row("SAM", {0: 9.0}))
    (told,) = statements(compared(rows, rows[:1], None, [(rows[1], rows[0])]))
    assert told.text == "SAM has 1.00 points less error than SGD, at equal epochs and passes and seconds (one seed)"
    assert told.verdict == "not separated"
