"""The report: what it makes of a folder of records, and what it says where there are none."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from sam_bench.cli.commands import report, table
from tests.conftest import ROOT
from tests.report.test_study import OURS, record


@pytest.fixture
def results(tmp_path):
    study = OURS["noisy40"]
    folder = tmp_path / "noisy40" / "records"
    folder.mkdir(parents=True)
    for title in ("SGD", "SAM"):
        for seed in (0, 1, 2):
            for split in ("test", "val"):
                made = record([*study.overrides(title), f"seed={seed}", f"data.split={split}"], 50 + seed, epochs=1)
                made |= {"run_id": f"{title}-{seed}-{split}", "averaged": {}}
                made |= {"schema_version": 1, "train_seconds": 1.0, "eval_seconds": 1.0, "test_ece": 1.0}
                made["history"] = {"test_error": [50.0 + seed]}
                (folder / f"{title}-{seed}-{split}.json").write_text(json.dumps(made))
    return tmp_path


def test_it_makes_tables_comparison_and_figures_and_touches_nothing_else(results):
    before = (ROOT / "README.md").read_bytes()
    report.main(["--results", str(results)])
    names = {str(path.relative_to(results / "noisy40")) for path in (results / "noisy40").rglob("*") if path.is_file()}
    made = {name for name in names if not name.startswith("records")}
    tables = {f"{stem}.{kind}" for stem in ("table", "table-val") for kind in ("csv", "md", "tex")}
    figures = {
        f"figures/{name}.{kind}" for name in ("errors", "differences", "curves", "cost") for kind in ("svg", "png")
    }
    assert made == tables | {"comparison.csv", "comparison.md"} | figures
    assert (ROOT / "README.md").read_bytes() == before
    assert "| SAM    | 0.119 |" in (results / "noisy40" / "table.md").read_text()


def test_without_records_it_is_one_message(tmp_path):
    with pytest.raises(SystemExit, match=r"^Error: there are no records in .*nothing; run something first$"):
        report.main(["--results", str(tmp_path), "--experiment", "nothing"])


def test_report_without_matplotlib_says_what_to_install(results):
    program = "import sys; sys.modules['matplotlib'] = None; from sam_bench.cli.commands.report import main; "
    command = [sys.executable, "-c", program + "main(sys.argv[1:])", "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "Error: report needs matplotlib, which is not installed: pip install 'sam_bench[report]'\n"


def test_a_table_on_the_protocol_of_a_published_figure_has_it_beside(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "sam_example" / "records"
    folder.mkdir(parents=True)
    for method in ("sgd", "vasso"):
        made = record(["experiment=sam_example", f"optimizer={method}", "seed=0"], 3.0) | {"schema_version": 1}
        (folder / f"{method}.json").write_text(json.dumps(made))
    table.main(["--results", str(tmp_path), "--experiment", "sam_example"])
    text = (folder.parent / "published.md").read_text()
    assert text in capsys.readouterr().out
    lines = text.splitlines()[2:]
    assert len(lines) == 1 and "| 3.20 " in lines[0] and lines[0].endswith("| 3.00 (1 seed) |")
    assert "3.20" not in (folder.parent / "table.md").read_text()
