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
    found = [folder.parent.name for folder in sorted(results.glob("*/records"))]
    experiments = [given["experiment"]] if given["experiment"] else found
    if not experiments:
        sys.exit(f"Error: there are no records in {results}; run an experiment first, such as experiment=quick")
    for experiment in experiments:
        folder, name = results / experiment, "table" if given["split"] == "test" else f"table-{given['split']}"
        try:
            records = read_records(folder / "records", given["split"])
        except UserError as error:
            sys.exit(f"Error: {error}")
        print(write_table(records, experiment, folder, name))
        print(f"Written: {folder}/{name}.csv, .md and .tex\n")


if __name__ == "__main__":
    main(sys.argv[1:])
