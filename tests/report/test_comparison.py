"""A comparison: what is paired with what, what is left out, how it is corrected, and how it is said."""

import pytest

from sam_bench.errors import StateError
from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, in_short, in_words
from sam_bench.report.differences import VERDICTS
from sam_bench.report.rows import Row


def row(title: str, errors: dict[int, float | None], epochs: int = 3, passes: int = 1) -> Row:
    """A row of runs of so many passes an epoch; None for one that diverged."""
    runs = [
        {
            "method": title.lower().split(",")[0],
            "seed": seed,
            "status": "diverged" if error is None else "finished",
            "test_error": error or 90.0,
            "passes": passes * epochs,
            "device": "cpu",
            "history": {},
            "config": {"trainer": {"epochs": epochs}, "optimizer": {}},
        }
        for seed, error in errors.items()
    ]
    return Row(title, tuple(runs))


SGD = row("SGD", {0: 10.0, 1: 12.0, 2: 11.0})
LONGER = row("SGD, longer", {0: 9.0, 1: 11.5, 2: 11.0}, epochs=6)
SAM = row("SAM", {0: 9.0, 1: 10.0, 2: None}, passes=2)
LOST = row("Lost", {0: None, 1: None, 2: None}, passes=2)
ASAM = row("ASAM", {2: 10.5, 1: 11.5, 0: 9.5}, passes=2)
CHEAP = row("Cheap", {0: 9.0, 1: 12.0, 2: 10.0})
ROWS = (SGD, LONGER, SAM, LOST, ASAM, CHEAP)


def compared(
    rows=ROWS, baselines=(SGD, LONGER), reference=SAM, planned=(), seconds=None, of_planned=0, margin=0
) -> Comparison:
    def passes(of: Row) -> float:
        return of.means["passes"]

    candidates = dict.fromkeys(rows, baselines)
    return Comparison.of(rows, candidates, seconds or passes, reference, planned, of_planned, margin)


def test_each_row_has_the_baselines_that_cost_as_much():
    found = compared(seconds=lambda of: {SAM: 2.9, ASAM: 5.8, LOST: 4.5}.get(of, 3.0 if of.epochs == 3 else 6.0))
    assert found.baselines[EPOCHS] == {SAM: SGD, LOST: SGD, ASAM: SGD, CHEAP: SGD}
    assert found.baselines[PASSES] == {SAM: LONGER, ASAM: LONGER, CHEAP: SGD}
    assert found.baselines[SECONDS] == {SAM: SGD, ASAM: LONGER, CHEAP: SGD}
    assert found.baselines[REFERENCE] == {LOST: SAM, ASAM: SAM, CHEAP: SAM}
    assert found.at(PASSES, ASAM).seeds == 3
    assert found.at(PASSES, SGD) is None and found.at(EPOCHS, LOST) is None


def test_diverged_runs_are_left_out():
    found = compared()
    assert found.at(EPOCHS, SAM).seeds == found.at(REFERENCE, ASAM).seeds == 2
    assert not any(LOST in pair for pair in found.found)
    assert LOST not in found.model.errors


def test_markdown_has_a_column_for_each_kind():
    table, *remarks = compared().as_markdown().strip().split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["", *(f"Δ to SGD at equal {what}" for what in ("epochs", "passes", "seconds")), "Δ to SAM"]
    assert [each[0] for each in cells[2:]] == [of.title for of in ROWS]
    assert cells[2][1:] == cells[5][1:] == ["–"] * 4
    assert cells[6][1].rpartition(": ")[2] in VERDICTS
    assert cells[4][1].endswith(")")  # two seeds are too few for a verdict
    assert "Diverged runs, left out: SAM 1; Lost 3." in remarks


def test_words_are_difference_interval_and_verdict():
    near = row("Near", {0: 11.0, 1: 12.0, 2: 11.8})
    found = compared((SGD, near), (SGD,), None).at(EPOCHS, near)
    low, high = found.simultaneous
    assert in_words(found) == f"+0.60 (−{-low:.2f} to +{high:.2f}): undecided"
    assert in_short(found) == f"+0.60 ± {(high - low) / 2:.2f} undecided"
    assert in_short(None) == "–"


def test_planned_and_exploratory_are_two_families():
    planned = ((SAM, SGD), (LONGER, SGD))
    found = compared(planned=planned)
    others = [pair for pair in found.found if pair not in planned]
    assert [found.found[pair].level for pair in planned] == [1 - 0.05 / 2] * 2
    assert {found.found[pair].level for pair in others} == {1 - 0.05 / 8}
    assert found.families == 2
    text = found.as_markdown()
    assert "\n- SGD, longer − SGD: −0.50 (" in text and "\n- SAM − SGD" not in text


def test_margin_is_that_of_the_study():
    same = row("Same", {0: 10.0, 1: 12.1, 2: 11.0})
    assert compared((SGD, same), (SGD,), None, margin=1).at(EPOCHS, same).verdict == "within the margin"
    assert compared((SGD, same), (SGD,), None).at(EPOCHS, same).verdict == "undecided"


def test_planned_pairs_without_runs_count():
    few, many = (compared(planned=[(SAM, SGD)], of_planned=count).found[SAM, SGD] for count in (0, 5))
    assert (few.level, many.level) == (1 - 0.05, 1 - 0.05 / 5)
    assert compared(planned=[(SAM, SGD), (LOST, SGD)]).found[SAM, SGD].level == 1 - 0.05 / 2


def test_the_frame_has_a_line_for_each_pair_and_says_of_what_kind_it_is():
    frame = compared(planned=[(LONGER, SGD)]).as_frame()
    kinds = {(line["row"], line["baseline"]): line["kinds"] for _, line in frame.iterrows()}
    assert kinds == {
        ("SGD, longer", "SGD"): "",
        ("SAM", "SGD"): EPOCHS,
        ("ASAM", "SGD"): EPOCHS,
        ("Cheap", "SGD"): f"{EPOCHS}; {PASSES}; {SECONDS}",
        ("SAM", "SGD, longer"): f"{PASSES}; {SECONDS}",
        ("ASAM", "SGD, longer"): f"{PASSES}; {SECONDS}",
        ("ASAM", "SAM"): REFERENCE,
        ("Cheap", "SAM"): REFERENCE,
    }
    assert list(frame["planned"]) == [True, *[False] * 7]


def test_of_one_seed_there_is_a_difference_and_no_interval():
    rows = (row("SGD", {0: 10.0}), row("SAM", {0: 9.25}))
    assert "| −0.75  " in compared(rows, rows[:1], None).as_markdown()


def test_a_baseline_that_diverged_is_compared_with_nothing():
    rows = (row("SGD", {0: None}), row("SAM", {0: 9.0}))
    found = compared(rows, rows[:1], None)
    assert found.found == {} and found.kinds == [] and found.families == 0


def test_there_are_as_many_runs_as_seeds():
    with pytest.raises(StateError, match="several records of SGD"):
        Row("SGD", (SGD.runs[0], SGD.runs[0]))
