"""Train what is missing of METHODS × SEEDS under an experiment, then make its table.

python scripts/reproduce_table.py --experiment noisy40 --methods sgd,sam --seeds 0,1

Interrupted, the same command goes on where it was.
"""

import sys
from pathlib import Path

import torch

from sam_bench.cli.compose import compose, describe_preset
from sam_bench.cli.main import EXIT_RESUMABLE, EXIT_RUN
from sam_bench.report.table import protocol
from scripts.arguments import at_least, errors_as_messages, jobs, method_names, parser
from scripts.programs import Programs


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train and make the table; ends this process with an exit code."""
    experiment, seeds = ("sam_example", "0,1,2") if torch.cuda.is_available() else ("noisy40", "0,1")
    words = parser(__doc__)
    words.add_argument("--experiment", default=experiment, help="sam_example with a CUDA device, else noisy40")
    words.add_argument("--methods", default="sgd,sam,asam,gsam", type=method_names, help="of optimization, or all")
    words.add_argument("--seeds", default=seeds, help="of each method")
    words.add_argument("--jobs", default=jobs(), type=at_least(1), help="runs at once, which share the cores")
    options = words.parse_args(arguments)
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
    side_by_side = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"] if options.jobs > 1 else []
    runs = [preset, f"optimizer={methods}", f"seed={options.seeds}"]
    failed = call("-m", "sam_bench", "--multirun", *side_by_side, *runs)
    if failed not in (0, EXIT_RUN):  # interrupted, or nothing was run: that has been said
        sys.exit(failed)
    sys.exit(failed or call(str(Path(__file__).with_name("make_table.py")), "--experiment", experiment))


def call(*arguments: str) -> int:
    """Run Python to its end, and return its exit code."""
    (code,) = Programs().run([arguments])
    return EXIT_RESUMABLE if code is None else code


if __name__ == "__main__":
    main(sys.argv[1:])
