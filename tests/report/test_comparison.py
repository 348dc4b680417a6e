"""A comparison: what is paired with what, what is left out, how it is corrected, and how it is said."""

import math

import numpy as np
import pytest

from sam_bench.errors import StateError
from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, SECONDS, Comparison, in_short, in_words
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


def compared(rows=ROWS, baselines=(SGD, LONGER), reference=SAM, planned=(), seconds=None, of_planned=0) -> Comparison:
    def passes(of: Row) -> float:
        return of.means["passes"]

    return Comparison.of(rows, dict.fromkeys(rows, baselines), seconds or passes, reference, planned, of_planned)


def test_each_row_has_the_baselines_that_cost_as_much():
    found = compared(seconds=lambda of: {SAM: 2.9, ASAM: 5.8, LOST: 4.5}.get(of, 3.0 if of.epochs == 3 else 6.0))
    assert found.baselines[EPOCHS] == {SAM: SGD, LOST: SGD, ASAM: SGD, CHEAP: SGD}
    assert found.baselines[PASSES] == {SAM: LONGER, ASAM: LONGER, CHEAP: SGD}
    assert found.baselines[SECONDS] == {SAM: SGD, ASAM: LONGER, CHEAP: SGD}
    assert found.baselines[REFERENCE] == {LOST: SAM, ASAM: SAM, CHEAP: SAM}
    assert found.at(PASSES, ASAM).differences == (0.5, 0.0, -0.5)
    assert found.at(PASSES, SGD) is None and found.at(EPOCHS, LOST) is None


def test_runs_are_paired_by_their_seeds_and_those_that_diverged_are_left_out_and_said():
    found = compared()
    assert found.at(EPOCHS, SAM).differences == (-1.0, -2.0)
    assert found.at(REFERENCE, ASAM).differences == (0.5, 1.5)
    assert not any(LOST in pair for pair in found.found)
    table, about, passes, lost, holm = found.as_markdown().strip().split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["", *(f"Δ to SGD at equal {what}" for what in ("epochs", "passes", "seconds")), "Δ to SAM"]
    assert [each[0] for each in cells[2:]] == [of.title for of in ROWS]
    assert cells[2][1:] == cells[5][1:] == ["–"] * 4
    assert cells[6][1] == "−0.50 (−0.50 to −0.50): better"
    assert cells[4][1].endswith(")") and cells[4][1].startswith("−1.50 (")  # two seeds are too few for a verdict
    assert "(2 or 3 seeds)" in about and lost == "Runs that diverged, and are left out: SAM 1, Lost 3."
    assert holm.startswith("The verdict is the interval's (Bonferroni).")
    assert passes.startswith("At equal passes, or seconds: from 10% less to 5% more than the row's")


def test_of_more_than_a_hundred_seeds_the_number_is_not_said():
    near, far = (row("Near", {0: 11.0, 1: 12.0, 2: 11.8}), row("Far", {0: 10.6, 1: 11.5, 2: 11.0}))
    few, many = (compared((SGD, each), (SGD,), None).at(EPOCHS, each) for each in (near, far))
    assert few.seeds_needed < 100 < many.seeds_needed
    assert in_words(few).endswith(f": not separated, about {few.seeds_needed} seeds would")
    assert in_short(few).endswith(f" n. s. ({few.seeds_needed})")
    assert in_words(many).endswith(": not separated, more than 100 seeds would")
    assert in_short(many).endswith(" n. s. (> 100)")


def test_half_of_the_five_percent_is_what_was_planned_and_half_is_the_rest():
    planned = ((SAM, SGD), (LONGER, SGD))
    found = compared(planned=planned)
    others = [pair for pair in found.found if pair not in planned]
    assert [found.found[pair].level for pair in planned] == [1 - 0.025 / 2] * 2
    assert {found.found[pair].level for pair in others} == {1 - 0.025 / 8}
    text = found.as_markdown()
    assert "\n- SGD, longer − SGD: −0.50 (" in text and "\n- SAM − SGD" not in text
    assert "half of the 5 % are theirs, the other half all others': SAM − SGD; SGD, longer − SGD." in text


def test_where_everything_was_planned_all_five_percent_are_its_own():
    found = compared((SGD, SAM), (SGD,), None, planned=[(SAM, SGD)])
    assert found.found[SAM, SGD].level == 1 - 0.05
    assert "\n\nPlanned: SAM − SGD.\n" in found.as_markdown()


def test_what_came_to_nothing_counts_all_the_same():
    few, many = (compared(planned=[(SAM, SGD)], of_planned=count).found[SAM, SGD] for count in (0, 5))
    assert (few.level, many.level) == (1 - 0.025, 1 - 0.025 / 5)
    assert compared(planned=[(SAM, SGD), (LOST, SGD)]).found[SAM, SGD].level == 1 - 0.025 / 2


def test_with_no_difference_few_tables_claim_any():
    rng = np.random.default_rng(0)
    claims = 0
    tables = rng.normal(50, 1, (400, 5, 5)) + rng.normal(0, 1, (400, 1, 5))
    for errors in tables:
        made = [row(f"Row{i}", dict(enumerate(map(float, each))), passes=1 + (i > 1)) for i, each in enumerate(errors)]
        found = compared(made, made[:1], made[2], [(made[2], made[0]), (made[3], made[2])])
        claims += any(each.separated for each in found.found.values())
    assert claims / len(tables) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(tables))


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
    assert found.found == {} and found.kinds == [] and found.best is None


def test_the_best_is_compared_with_the_reference_and_corrected_for_all_that_it_was_chosen_from():
    better = row("Better", {0: 8.0, 1: 9.0, 2: 8.0}, passes=2)
    found = compared((*ROWS, better), planned=[(better, SAM)])
    best, against = found.best
    assert best is better and against.differences == (-1.0, -1.0)
    assert against.level == max(1 - 0.05 / 3, 1 - 0.025)
    lucky = row("Lucky", {0: 1.0}, passes=2)
    assert compared((*ROWS, better, lucky)).best[0] is better  # one seed of it is not all


def test_there_are_as_many_runs_as_seeds():
    with pytest.raises(StateError, match="several records of SGD"):
        Row("SGD", (SGD.runs[0], SGD.runs[0]))
