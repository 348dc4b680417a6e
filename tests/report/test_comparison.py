"""Tests of a table's comparisons: baselines, families, margin, diverged runs, and their text."""

from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, in_short, in_words
from sam_bench.report.differences import VERDICTS
from sam_bench.report.rows import Row


def row(title: str, errors: dict[int, float | None], epochs: int = 3, passes: int = 1) -> Row:
    """Return a row of runs.

    Args:
        errors: the test error of each run by seed; None for a run that diverged.
        passes: passes per epoch.
    """
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
DIVERGED = row("Diverged", {0: None, 1: None, 2: None}, passes=2)
ASAM = row("ASAM", {2: 10.5, 1: 11.5, 0: 9.5}, passes=2)
CHEAP = row("Cheap", {0: 9.0, 1: 12.0, 2: 10.0})
ROWS = (SGD, LONGER, SAM, DIVERGED, ASAM, CHEAP)


def compare(
    rows=ROWS, baselines=(SGD, LONGER), reference=SAM, planned=(), seconds=None, planned_count=0, margin=0
) -> Comparison:
    """Compare rows, each with all baselines; a run's seconds are its passes unless given."""

    def passes(row: Row) -> float:
        return row.means["passes"]

    candidates = dict.fromkeys(rows, baselines)
    return Comparison.of(rows, candidates, seconds or passes, reference, planned, planned_count, margin)


def test_baselines_have_equal_cost():
    comparison = compare(
        seconds=lambda row: {SAM: 2.9, ASAM: 5.8, DIVERGED: 4.5}.get(row, 3.0 if row.epochs == 3 else 6.0)
    )
    assert comparison.baselines[EPOCHS] == {SAM: SGD, DIVERGED: SGD, ASAM: SGD, CHEAP: SGD}
    assert comparison.baselines[PASSES] == {SAM: LONGER, ASAM: LONGER, CHEAP: SGD}
    assert comparison.baselines[SECONDS] == {SAM: SGD, ASAM: LONGER, CHEAP: SGD}
    assert comparison.baselines[REFERENCE] == {DIVERGED: SAM, ASAM: SAM, CHEAP: SAM}
    assert comparison.at(PASSES, ASAM).seeds == 3
    assert comparison.at(PASSES, SGD) is None and comparison.at(EPOCHS, DIVERGED) is None


def test_diverged_runs_are_left_out():
    comparison = compare()
    assert comparison.at(EPOCHS, SAM).seeds == comparison.at(REFERENCE, ASAM).seeds == 2
    assert not any(DIVERGED in pair for pair in comparison.differences)
    assert DIVERGED not in comparison.model.errors


def test_markdown_has_a_column_for_each_kind():
    table, *remarks = compare().as_markdown().strip().split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["", *(f"Δ to SGD at equal {cost}" for cost in ("epochs", "passes", "seconds")), "Δ to SAM"]
    assert [line[0] for line in cells[2:]] == [row.title for row in ROWS]
    assert cells[2][1:] == cells[5][1:] == ["–"] * 4
    assert cells[6][1].rpartition(": ")[2] in VERDICTS
    assert cells[4][1].endswith(")")  # two seeds are too few for a verdict
    assert "Diverged runs, left out: SAM 1; Diverged 3." in remarks


def test_words_are_difference_interval_and_verdict():
    near = row("Near", {0: 11.0, 1: 12.0, 2: 11.8})
    difference = compare((SGD, near), (SGD,), None).at(EPOCHS, near)
    low, high = difference.simultaneous
    assert in_words(difference) == f"+0.60 (−{-low:.2f} to +{high:.2f}): undecided"
    assert in_short(difference) == f"+0.60 ± {(high - low) / 2:.2f} undecided"
    assert in_short(None) == "–"


def test_planned_and_exploratory_are_two_families():
    planned = ((SAM, SGD), (LONGER, SGD))
    comparison = compare(planned=planned)
    exploratory = [pair for pair in comparison.differences if pair not in planned]
    assert [comparison.differences[pair].level for pair in planned] == [1 - 0.05 / 2] * 2
    assert {comparison.differences[pair].level for pair in exploratory} == {1 - 0.05 / 8}
    assert comparison.families == 2


def test_planned_pair_without_column_is_listed():
    text = compare(planned=((SAM, SGD), (LONGER, SGD))).as_markdown()
    assert "\n- SGD, longer − SGD: −0.50 (" in text and "\n- SAM − SGD" not in text


def test_margin_decides_within_the_margin():
    same = row("Same", {0: 10.0, 1: 12.1, 2: 11.0})
    assert compare((SGD, same), (SGD,), None, margin=1).at(EPOCHS, same).verdict == "within the margin"
    assert compare((SGD, same), (SGD,), None).at(EPOCHS, same).verdict == "undecided"


def test_planned_pairs_without_runs_count_in_level():
    few, many = (compare(planned=[(SAM, SGD)], planned_count=count).differences[SAM, SGD] for count in (0, 5))
    assert (few.level, many.level) == (1 - 0.05, 1 - 0.05 / 5)
    assert compare(planned=[(SAM, SGD), (DIVERGED, SGD)]).differences[SAM, SGD].level == 1 - 0.05 / 2


def test_frame_has_each_pair_with_its_kinds():
    frame = compare(planned=[(LONGER, SGD)]).as_frame()
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


def test_one_seed_has_difference_without_interval():
    rows = (row("SGD", {0: 10.0}), row("SAM", {0: 9.25}))
    assert "| −0.75  " in compare(rows, rows[:1], None).as_markdown()


def test_diverged_baseline_has_no_comparison():
    rows = (row("SGD", {0: None}), row("SAM", {0: 9.0}))
    comparison = compare(rows, rows[:1], None)
    assert comparison.differences == {} and comparison.kinds == [] and comparison.families == 0
