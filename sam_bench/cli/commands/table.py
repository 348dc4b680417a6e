"""Make the table of an experiment, or of all experiments, from the records of its runs. Trains nothing.

python -m sam_bench table --experiment quick --split val
"""

import sys

from sam_bench.cli.arguments import add_results, add_split, errors_as_messages, parser
from sam_bench.plugins import load_installed


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "table")
    arguments_parser.add_argument("--experiment", help="one experiment; else every one that has records")
    add_split(arguments_parser)
    add_results(arguments_parser)
    options = arguments_parser.parse_args(arguments)

    from sam_bench.cli.tables import make_tables, with_records

    load_installed()
    experiments = [options.experiment] if options.experiment else with_records(options.results)
    has_table = [make_tables(experiment, options.results / experiment, options.split) for experiment in experiments]
    if not any(has_table):
        folder = options.results / (options.experiment or "")
        sys.exit(f"Error: there are no records with data.split={options.split} in {folder}; run the experiment first")
