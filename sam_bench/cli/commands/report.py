"""Make all tables, figures and pages from the records of runs. Trains nothing.

python -m sam_bench report --experiment noisy40

In a checkout, the default covers all of results/measured, and the generated parts of docs/findings.md and
results/README.md.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sam_bench.cli.arguments import add_results, errors_as_messages, parser
from sam_bench.cli.conf_folder import CHECKOUT
from sam_bench.errors import ConfigError
from sam_bench.plugins import load_installed

MEASURED = CHECKOUT / "results" / "measured" if CHECKOUT else None


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "report")
    arguments_parser.add_argument("--experiment", help="only this experiment")
    add_results(arguments_parser, MEASURED or Path("results"))
    options = arguments_parser.parse_args(arguments)

    try:
        from sam_bench.cli.pages import write_pages, write_results
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ConfigError(f"report needs {package}, which is not installed: pip install 'sam_bench[report]'") from error

    load_installed()
    folders = sorted(path.parent for path in options.results.glob("*/records"))
    if options.experiment:
        folders = [folder for folder in folders if folder.name == options.experiment]
    if not folders:
        sys.exit(f"Error: there are no records in {options.results / (options.experiment or '')}; run something first")

    with ProcessPoolExecutor(initializer=load_installed) as workers:
        by_experiment = dict(zip([folder.name for folder in folders], workers.map(write_results, folders), strict=True))
    print(f"Written: tables, comparisons and figures of {', '.join(by_experiment)}")

    # The pages about all studies need the records of all of them.
    if MEASURED and not options.experiment and options.results.resolve() == MEASURED:
        write_pages(MEASURED, {name: found for name, found in by_experiment.items() if found is not None})
