"""Train the missing runs of METHODS × SEEDS under an experiment, then make its table.

python scripts/reproduce_table.py --experiment noisy40 --methods sgd,sam --seeds 0,1

After an interruption, the same command continues where it stopped.
"""

import sys
from pathlib import Path

import torch

from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.main import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.report.table import protocol
from scripts.arguments import at_least, errors_as_messages, jobs, method_names, parser
from scripts.programs import Programs


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train the runs and make the table, and exit with the exit code of the step that failed, or 0."""
    experiment, seeds = ("sam_example", "0,1,2") if torch.cuda.is_available() else ("noisy40", "0,1")
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument(
        "--experiment", default=experiment, help="preset; sam_example with a CUDA device, else noisy40"
    )
    arguments_parser.add_argument(
        "--methods", default="sgd,sam,asam,gsam", type=method_names, help="methods with commas between them, or all"
    )
    arguments_parser.add_argument("--seeds", default=seeds, help="seeds of each method")
    arguments_parser.add_argument(
        "--jobs", default=jobs(), type=at_least(1), help="runs at once, which share the cores"
    )
    options = arguments_parser.parse_args(arguments)

    experiment = options.experiment
    methods = ",".join(options.methods)
    preset = f"experiment={experiment}"
    configs = [compose([preset, f"optimizer={method}"]).identity() for method in options.methods]
    lines = [
        describe_preset(experiment),
        protocol(configs, experiment),
        f"Methods {methods}, seeds {options.seeds}.",
    ]
    print(*filter(None, lines), sep="\n", flush=True)

    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"] if options.jobs > 1 else []
    runs = [preset, f"optimizer={methods}", f"seed={options.seeds}"]
    exit_code = call("-m", "sam_bench", "--multirun", *launcher, *runs)
    if exit_code not in (0, EXIT_RUN):  # interrupted, or nothing was run; sam_bench has already printed why
        sys.exit(exit_code)

    # The table has what is finished, even if a run failed.
    table_exit_code = call(str(Path(__file__).with_name("make_table.py")), "--experiment", experiment)
    sys.exit(exit_code or table_exit_code)


def call(*arguments: str) -> int:
    """Run Python with these arguments, and return its exit code."""
    (code,) = Programs().run([arguments])
    return EXIT_RESUMABLE if code is None else code


if __name__ == "__main__":
    main(sys.argv[1:])
