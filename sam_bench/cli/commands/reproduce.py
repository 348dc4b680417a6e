"""Train the missing runs of METHODS × SEEDS under an experiment, then make its table.

python -m sam_bench reproduce --experiment noisy40 --methods sgd,sam --seeds 0,1

After an interruption, the same command continues where it stopped.
"""

import sys

from sam_bench.cli.arguments import add_jobs, errors_as_messages, method_names, numbers, parser
from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.exit_codes import EXIT_RESUMABLE
from sam_bench.cli.parallel import plan, train


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train the runs and make the table, and exit with an error code if a run ends without a result."""
    arguments_parser = parser(__doc__, "reproduce")
    arguments_parser.add_argument(
        "--experiment", help="preset; by default sam_example with a CUDA device, else noisy40"
    )
    arguments_parser.add_argument(
        "--methods", default="sgd,sam,asam,gsam", type=method_names, help="methods with commas between them, or all"
    )
    arguments_parser.add_argument(
        "--seeds", type=numbers, help="seeds of each method; by default 0,1,2 with a CUDA device, else 0,1"
    )
    add_jobs(arguments_parser)
    options = arguments_parser.parse_args(arguments)

    import torch

    from sam_bench.cli.tables import make_tables
    from sam_bench.report.table import protocol

    has_gpu = torch.cuda.is_available()
    experiment = options.experiment or ("sam_example" if has_gpu else "noisy40")
    seeds = options.seeds or ([0, 1, 2] if has_gpu else [0, 1])
    methods = list(dict.fromkeys(options.methods))

    # What will be done is said before the data are obtained, which may take minutes.
    preset = f"experiment={experiment}"
    configs = [compose([preset, f"optimizer={method}"]).identity() for method in methods]
    lines = [
        describe_preset(experiment),
        protocol(configs, experiment),
        f"Methods: {', '.join(methods)}. Seeds: {', '.join(map(str, seeds))}.",
    ]
    print(*filter(None, lines), sep="\n", flush=True)

    # Seeds are the outer loop, so that after an interruption all methods have about the same number of seeds.
    runs = [
        (f"{method}  seed {seed}", [preset, f"optimizer={method}", f"seed={seed}"])
        for seed in seeds
        for method in methods
    ]
    planned = plan(runs)
    code = train(planned, options.jobs, "the comparison is incomplete", show_epochs=True)
    if code == EXIT_RESUMABLE:
        sys.exit(code)

    # The table has what is finished, even if a run failed.
    config = planned[0].config
    make_tables(experiment, config.paths.results_of(experiment), config.data.split)
    if code:
        sys.exit(code)
