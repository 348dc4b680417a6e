"""Tests of the command `report`."""

import json

import pytest

pytest.importorskip("matplotlib")

from sam_bench.cli.commands import report
from tests.cli.conftest import run_python
from tests.conftest import ROOT
from tests.report.study_records import OURS, record

#: Pages of the checkout that a report of all committed records writes.
PAGES = [ROOT / "docs" / "findings.md", ROOT / "results" / "README.md"]


@pytest.fixture
def results(tmp_path):
    """Return a folder with records of noisy40: two rows, three seeds, on the test set and on held-out images."""
    study = OURS["noisy40"]
    folder = tmp_path / "noisy40" / "records"
    folder.mkdir(parents=True)
    changes = {"averaged": {}, "schema_version": 1, "train_seconds": 1.0, "eval_seconds": 1.0, "test_ece": 1.0}

    for title in ("SGD", "SAM"):
        for seed in (0, 1, 2):
            for split in ("test", "val"):
                overrides = [*study.overrides(title), f"seed={seed}", f"data.split={split}"]
                run_id = f"{title}-{seed}-{split}"
                content = record(overrides, 50 + seed, epochs=1) | changes
                content |= {"run_id": run_id, "history": {"test_error": [50.0 + seed]}}
                (folder / f"{run_id}.json").write_text(json.dumps(content))
    return tmp_path


def test_report_writes_tables_comparison_and_figures(results):
    folder = results / "noisy40"
    pages_before = [page.read_bytes() for page in PAGES]
    report.main(["--results", str(results)])

    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {f"{stem}.{kind}" for stem in ("table", "table-val") for kind in ("csv", "md", "tex")}
    figures = {f"figures/{name}.{kind}" for name in ("errors", "differences", "curves") for kind in ("svg", "png")}
    written = {name for name in files if not name.startswith("records")}
    assert written == tables | {"comparison.csv", "comparison.md"} | figures
    assert "| SAM    | 0.119 |" in (folder / "table.md").read_text()

    # Only the committed records change the pages of the checkout.
    assert [page.read_bytes() for page in PAGES] == pages_before


def test_report_without_records_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"^Error: there are no records in .*nothing; run something first$"):
        report.main(["--results", str(tmp_path), "--experiment", "nothing"])


def test_report_without_matplotlib_names_the_extra(results):
    program = """
import sys
sys.modules["matplotlib"] = None
from sam_bench.cli.commands.report import main
main(sys.argv[1:])
"""
    done = run_python("-c", program, "--results", str(results), cwd=results)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: report needs matplotlib")
    assert "pip install 'sam_bench[report]'" in done.stderr
    assert done.stderr.count("\n") == 1
