"""Measure the cost of a checkpoint: bytes, seconds to save and to load, and the share of an epoch.

python scripts/benchmark/checkpoint_cost.py --models resnet20,wrn16_8 --optimizer sam

The time of an epoch is its number of steps times the median time of a few steps, on generated images with CIFAR-10's
size and number. Times of checkpoints are medians of five, in the current folder's file system.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from statistics import median
from timeit import repeat

from sam_bench.cli.arguments import at_least, errors_as_messages, names_of, parser
from sam_bench.cli.conf_folder import choices
from sam_bench.data import synthetic
from sam_bench.runs.checkpoint import Checkpoints
from scripts.benchmark.case import Ours
from scripts.benchmark.records import Case
from scripts.markdown import row, table

SAVES = 5


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    models = names_of(choices("model"), "models")
    arguments_parser.add_argument("--models", default="resnet20,wrn16_8", type=models, help="networks")
    arguments_parser.add_argument("--optimizer", default="sam", help="method, whose state is saved too")
    arguments_parser.add_argument("--steps", default=5, type=at_least(1), help="number of steps that are timed")
    arguments_parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = arguments_parser.parse_args(arguments)
    synthetic.TRAIN = 50_000
    synthetic.TEST = 1_000
    for number, model in enumerate(options.models):
        case = Case("ours", model, options.optimizer, device=options.device)
        measure(Ours(case), options.steps, heading=number == 0)


def measure(ours: Ours, steps: int, heading: bool) -> None:
    """Measure a network, and print its row of the table, after the headings if `heading` is true."""
    case = ours.case
    if heading:
        print(f"{case.method}, batch {case.batch_size}, {ours.hardware.name}, {ours.hardware.precision}\n")
        print(*table(["network", "MB", "seconds to save", "to load", "of an epoch", "share of the epoch"]), sep="\n")

    ours.step()  # warms up
    epoch = median(ours.timed(ours.step, 1)["seconds"] for _ in range(steps)) * ours.facts()["epoch_steps"]

    number = itertools.count()  # each checkpoint gets another step number, and so another file name
    state = ours.training.state_dict
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder), "a-run", print)
        save = median(repeat(lambda: checkpoints.save(0, next(number), {"training": state()}), number=1, repeat=SAVES))
        load = median(repeat(checkpoints.load, number=1, repeat=SAVES))
        size = checkpoints.paths()[0].stat().st_size / 1e6

    seconds = [f"{save:.3f}", f"{load:.3f}", f"{epoch:.0f}"]
    print(row(case.model, f"{size:.1f}", *seconds, f"{save / epoch:.3%}"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
