"""Make tables from records.

python scripts/make_table.py --experiment quick --split val
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sam_bench.cli.compose import choices, compose_seeds, describe_preset
from sam_bench.plugins import load_installed
from sam_bench.report.comparison import write_comparison
from sam_bench.report.cost import Cost
from sam_bench.report.published import published_table
from sam_bench.report.rows import Record
from sam_bench.report.study import Study
from sam_bench.report.table import Findings, read_records, write_table
from sam_bench.runs.files import write_atomically
from scripts.arguments import errors_as_messages, parser

BENCHMARKS = Path(__file__).parents[1] / "results" / "benchmark"


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--experiment", help="one alone, else every one that has records")
    words.add_argument("--split", default="test", choices=("test", "val"), help="what errors are counted on")
    words.add_argument("--results", default=Path("results"), type=Path, help="folder with a folder for each experiment")
    options = words.parse_args(arguments)
    load_installed()
    experiments = [options.experiment] if options.experiment else with_records(options.results)
    made = [make(experiment, options.results / experiment, options.split) for experiment in experiments]
    if not any(made):
        where = options.results / (options.experiment or "")
        sys.exit(f"Error: there are no records with data.split={options.split} in {where}; run the experiment first")


def make(
    experiment: str,
    folder: Path,
    split: str,
    study: Study | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> bool:
    """Make an experiment's table in its folder, and its comparison, and return whether it has records.

    Args:
        study: whose rows these are; else that of `conf/study` which has the experiment's name, if there is one.
        overrides: what its runs were told beside.
        config_dir: the folder of the user's own that they were told, as `--config-dir` names it.
    """
    records = read_records(folder / "records", split)
    if not records:
        return False
    name = "table" if split == "test" else f"table-{split}"
    found = findings(experiment, records, study, overrides, config_dir)
    print(write_table(found, experiment, folder, name, describe_preset(experiment)))
    print(f"Written: {folder}/{name}.csv, .md and .tex")
    if split == "test" and found.comparison.found:
        write_comparison(found.comparison, folder)
        print(f"Written: {folder}/comparison.csv and .md")
    if table := published_table([row for row in found.rows if not row.is_average], only_measured=True):
        write_atomically(folder / "published.md", f"{table}\n".encode())
        print(f"\nOf the same protocol as far as it is known:\n\n{table}\n\nWritten: {folder}/published.md")
    print()
    return True


def findings(
    experiment: str,
    records: list[Record],
    study: Study | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> Findings:
    """Return what records say: with the rows of the experiment's study if there are any, else with all there are."""
    cost = Cost.read(BENCHMARKS)
    files = choices("study")
    if study is None and experiment in files and records[0]["config"]["data"]["split"] == "test":
        study = Study.read(files[experiment])
    if study is not None:
        settings = {}
        for title in study.rows:
            configs = compose_seeds([*study.overrides(title), *overrides], study.seeds, config_dir)
            settings[title] = {seed: config.identity() for seed, config in configs.items()}
        found = Findings.of_study(study, records, settings, cost)
        if found.rows:
            return found
    return Findings.of(records, cost)


def with_records(results: Path) -> list[str]:
    """Return the experiments that have records; what was measured for the README is not among them."""
    folders = [folder.parent.relative_to(results) for folder in sorted(results.rglob("records"))]
    return [str(folder) for folder in folders if folder.parts[0] != "measured"]


if __name__ == "__main__":
    main(sys.argv[1:])
