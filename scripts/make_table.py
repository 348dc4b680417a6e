"""Make tables from records.

python scripts/make_table.py [experiment=NAME] [split=test|tune] [results=FOLDER]

Without an experiment: of every one that has records.
"""

import sys
from pathlib import Path

from sam_bench.errors import UserError
from sam_bench.report.table import read_records, write_table


def main(arguments: list[str]) -> None:
    given = {"experiment": "", "split": "test", "results": "results"}
    given |= dict(argument.partition("=")[::2] for argument in arguments)
    if set(given) != {"experiment", "split", "results"}:
        sys.exit(__doc__.strip())
    results = Path(given["results"])
    experiments = [given["experiment"]] if given["experiment"] else with_records(results)
    name = "table" if given["split"] == "test" else f"table-{given['split']}"
    made = 0
    for experiment in experiments:
        folder = results / experiment
        try:
            records = read_records(folder / "records", given["split"])
            if not records:
                continue
            print(write_table(records, experiment, folder, name))
        except UserError as error:
            sys.exit(f"Error: {error}")
        print(f"Written: {folder}/{name}.csv, .md and .tex\n")
        made += 1
    if not made:
        where = results / given["experiment"]
        sys.exit(f"Error: there are no records with data.split={given['split']} in {where}; run the experiment first")


def with_records(results: Path) -> list[str]:
    """The experiments that have records; what was measured for the README is not among them."""
    folders = [folder.parent.relative_to(results) for folder in sorted(results.rglob("records"))]
    return [str(folder) for folder in folders if folder.parts[0] != "measured"]


if __name__ == "__main__":
    main(sys.argv[1:])
