"""Tests that the committed report is what `make report` would write today from the committed records."""

from pathlib import Path

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


#: Why a committed file is not what would be written today.
STALE = "is stale: make report"


def findings(experiment: str, split: str = "test") -> Findings:
    """Return the findings of a committed experiment's records."""
    return tables.findings(experiment, read_records(MEASURED / experiment / "records", split))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def experiments_with(folder: str) -> list[str]:
    """Return the experiments that have a folder of this name."""
    return sorted(path.parent.name for path in MEASURED.glob(f"*/{folder}"))


def has_same_matplotlib() -> bool:
    """Return True if the committed figures were drawn by the version that is installed."""
    figure = MEASURED / pages.ORDER[0] / "figures" / "errors.svg"
    return f"Matplotlib v{mpl.__version__}" in figure.read_text()


def test_pages_of_all_studies_are_fresh():
    folders = sorted(path.parent for path in MEASURED.glob("*/records"))
    by_name = {folder.name: findings(folder.name) for folder in folders if read_records(folder / "records")}
    rows = [row for each in by_name.values() for row in (*each.rows, *each.others)]
    assert (MEASURED / "published.md").read_text() == pages.published(rows), f"published.md {STALE}"

    generated = {"docs/findings.md": pages.opening(by_name), "results/README.md": pages.what_was_run(folders)}
    for path, content in generated.items():
        text = (ROOT / path).read_text()
        assert replace_generated(text, content, pages.COMMAND) == text, f"{path} {STALE}"

    page = MEASURED / "index.html"
    if has_same_matplotlib():
        assert page.read_text() == pages.index(MEASURED, by_name), f"the page {STALE}"
    assert page.stat().st_size < 3_200_000


@pytest.mark.parametrize("experiment", experiments_with("figures"))
def test_figures_are_fresh(experiment, tmp_path):
    if not has_same_matplotlib():
        pytest.skip("they were drawn by another version of matplotlib")
    on_test = findings(experiment)
    held_out = read_records(MEASURED / experiment / "records", "val")
    sharpness = pages.sharpness_of(MEASURED / experiment, on_test)

    write_figures(draw(on_test, held_out) | draw_sharpness(sharpness), tmp_path)
    assert contents(tmp_path) == contents(MEASURED / experiment / "figures")


@pytest.mark.parametrize("experiment", experiments_with("analysis"))
def test_tables_of_sharpness_are_fresh(experiment, tmp_path):
    sharpness = pages.sharpness_of(MEASURED / experiment, findings(experiment))
    write_sharpness(sharpness, experiment, tmp_path, describe_preset(experiment))

    written = contents(tmp_path)
    committed = contents(MEASURED / experiment)
    assert written
    for name, content in written.items():
        assert committed[name] == content, f"{name} {STALE}"


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("experiment", experiments_with("records"))
def test_tables_are_fresh(experiment, split, tmp_path):
    name = "table" if split == "test" else "table-val"
    has_records = bool(read_records(MEASURED / experiment / "records", split))
    has_comparison = False
    if has_records:
        measured = findings(experiment, split)
        has_comparison = split == "test" and bool(measured.comparison.differences)
        write_table(measured, experiment, tmp_path, name, describe_preset(experiment))
        if has_comparison:
            write_comparison(measured.comparison, tmp_path)

    # A table that no record supports would be stale too.
    written = contents(tmp_path)
    stems = (name, "comparison") if split == "test" else (name,)
    committed = contents(MEASURED / experiment)
    assert written == {name: content for name, content in committed.items() if Path(name).stem in stems}
    assert len(written) == (3 + 2 * has_comparison if has_records else 0)
