"""Tables of experiments, made from the records of their runs, in the rows of a study if there is one."""

from collections.abc import Sequence
from pathlib import Path

from sam_bench.cli.compose import compose_seeds
from sam_bench.cli.conf_folder import CHECKOUT, choices, describe_preset
from sam_bench.report.comparison import write_comparison
from sam_bench.report.cost import Cost
from sam_bench.report.published import published_table
from sam_bench.report.rows import Record
from sam_bench.report.study import Study
from sam_bench.report.table import Findings, read_records, write_table
from sam_bench.runs.files import write_atomically

#: The folder of the benchmarks that the costs are read from; without a checkout, those of the current folder.
BENCHMARKS = (CHECKOUT or Path()) / "results" / "benchmark"


def make_tables(
    experiment: str,
    folder: Path,
    split: str,
    study: Study | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> bool:
    """Write an experiment's table and comparison to its folder; return False if it has no records of this split.

    Args:
        folder: the experiment's results folder, which has the folder `records`.
        split: "test" or "val".
        study: the study that defines the rows; by default the one in `conf/study` with the experiment's name, if any.
        overrides: settings that all runs of the study were given in addition.
        config_dir: the user's own configuration folder, as given with `--config-dir`.
    """
    records = read_records(folder / "records", split)
    if not records:
        return False

    name = "table" if split == "test" else f"table-{split}"
    table_findings = findings(experiment, records, study, overrides, config_dir)
    print(write_table(table_findings, experiment, folder, name, describe_preset(experiment)))
    print(f"Written: {folder}/{name}.csv, .md and .tex")

    if split == "test" and table_findings.comparison.differences:
        write_comparison(table_findings.comparison, folder)
        print(f"Written: {folder}/comparison.csv and .md")

    if table := published_table([row for row in table_findings.rows if not row.is_average], only_measured=True):
        write_atomically(folder / "published.md", f"{table}\n".encode())
        print(
            f"\nPublished with the same protocol, as far as it is known:\n\n{table}\n\nWritten: {folder}/published.md"
        )
    print()
    return True


def findings(
    experiment: str,
    records: list[Record],
    study: Study | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> Findings:
    """Return the findings from records, in the rows of the study if it has any runs, else in rows of their own."""
    cost = Cost.read(BENCHMARKS)
    files = choices("study")
    if study is None and experiment in files and records[0]["config"]["data"]["split"] == "test":
        study = Study.read(files[experiment])

    if study is not None:
        settings = {}
        for title in study.rows:
            configs = compose_seeds([*study.overrides(title), *overrides], study.seeds, config_dir)
            settings[title] = {seed: config.identity() for seed, config in configs.items()}
        study_findings = Findings.of_study(study, records, settings, cost)
        if study_findings.rows:
            return study_findings

    return Findings.of(records, cost)


def with_records(results: Path) -> list[str]:
    """Return the experiments that have records, except those in `results/measured`."""
    folders = [folder.parent.relative_to(results) for folder in sorted(results.rglob("records"))]
    return [str(folder) for folder in folders if folder.parts[0] != "measured"]
