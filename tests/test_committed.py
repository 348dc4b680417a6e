"""What `make report` writes, and is committed: it is what it would write today from the committed records."""

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

from sam_bench.cli import pages, tables
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.report.comparison import write_comparison
from sam_bench.report.figures import draw, write_figures
from sam_bench.report.markup import replace_generated
from sam_bench.report.sharpness import write_sharpness
from sam_bench.report.sharpness_figures import draw_sharpness
from sam_bench.report.table import Findings, read_records, write_table
from tests.conftest import ROOT

MEASURED = ROOT / "results" / "measured"


def findings(experiment: str, split: str = "test") -> Findings:
    return tables.findings(experiment, read_records(MEASURED / experiment / "records", split))


def has_same_matplotlib() -> bool:
    """Return True if the committed figures were drawn by the version that is installed."""
    drawn = MEASURED / pages.ORDER[0] / "figures" / "errors.svg"
    return f"Matplotlib v{mpl.__version__}" in drawn.read_text()


def test_pages_of_all_studies_are_fresh():
    folders = sorted(path.parent for path in MEASURED.glob("*/records"))
    made = {folder.name: findings(folder.name) for folder in folders if read_records(folder / "records")}
    everywhere = [row for each in made.values() for row in (*each.rows, *each.others)]
    assert (MEASURED / "published.md").read_text() == pages.published(everywhere)
    for path, content in (
        ("docs/findings.md", pages.opening(made)),
        ("results/README.md", pages.what_was_run(folders)),
    ):
        text = (ROOT / path).read_text()
        assert replace_generated(text, content, pages.COMMAND) == text, f"{path} is stale: make report"
    if has_same_matplotlib():
        assert (MEASURED / "index.html").read_text() == pages.index(MEASURED, made), "the page is stale: make report"
    assert (MEASURED / "index.html").stat().st_size < 3_200_000


@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/figures")))
def test_figures_are_fresh(experiment, tmp_path):
    if not has_same_matplotlib():
        pytest.skip("they were drawn by another version of matplotlib")
    found = findings(experiment)
    held_out = read_records(MEASURED / experiment / "records", "val")
    sharpness = pages.sharpness_of(MEASURED / experiment, found)
    write_figures(draw(found, held_out) | draw_sharpness(sharpness), tmp_path)
    committed = {path.name: path.read_bytes() for path in (MEASURED / experiment / "figures").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed


@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/analysis")))
def test_tables_of_sharpness_are_fresh(experiment, tmp_path):
    sharpness = pages.sharpness_of(MEASURED / experiment, findings(experiment))
    write_sharpness(sharpness, experiment, tmp_path, describe_preset(experiment))
    for path in tmp_path.iterdir():
        assert (MEASURED / experiment / path.name).read_bytes() == path.read_bytes(), (
            f"{path.name} is stale: make report"
        )


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/records")))
def test_tables_are_fresh(experiment, split, tmp_path):
    name = "table" if split == "test" else "table-val"
    records = read_records(MEASURED / experiment / "records", split)
    compared = False
    if records:
        found = findings(experiment, split)
        compared = split == "test" and bool(found.comparison.found)
        write_table(found, experiment, tmp_path, name, describe_preset(experiment))
        if compared:
            write_comparison(found.comparison, tmp_path)
    made, kept = (
        {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.stem in ((name, "comparison") if split == "test" else (name,))
        }
        for folder in (tmp_path, MEASURED / experiment)
    )
    assert made == kept
    assert len(made) == (3 + 2 * compared if records else 0)
