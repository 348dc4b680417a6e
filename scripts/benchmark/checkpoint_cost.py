"""What a checkpoint costs: bytes, seconds to save and to load, and the share of an epoch.

python scripts/benchmark/checkpoint_cost.py --models resnet20,wrn16_8 --optimizer sam

An epoch is counted as its number of steps times the median of a few, on generated images of CIFAR-10's size and number.
Medians of five checkpoints, in the current folder's file system.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam_bench.cli.compose import choices
from sam_bench.data import synthetic
from sam_bench.errors import UserError
from sam_bench.runs.checkpoint import Checkpoints
from scripts.arguments import at_least, names_of, parser
from scripts.benchmark.case import Ours
from scripts.benchmark.records import Case

SAVES = 5


def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument(
        "--models", default="resnet20,wrn16_8", type=names_of(choices("model"), "models"), help="networks"
    )
    words.add_argument("--optimizer", default="sam", help="whose state is saved, too")
    words.add_argument("--steps", default=5, type=at_least(1), help="that are timed")
    words.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = words.parse_args(arguments)
    synthetic.TRAIN = 50_000
    synthetic.TEST = 1_000
    try:
        for number, model in enumerate(options.models):
            case = Case("ours", model, options.optimizer, device=options.device)
            measure(Ours(case), options.steps, heading=number == 0)
    except UserError as error:
        sys.exit(f"Error: {error}")


def measure(ours: Ours, steps: int, heading: bool) -> None:
    """Print a network's row."""
    case = ours.case
    if heading:
        print(f"{case.method}, batch {case.batch_size}, {ours.hardware.name}, {ours.hardware.precision}\n")
        print("| network | MB | seconds to save | to load | of an epoch | share of the epoch |")
        print("| --- | --- | --- | --- | --- | --- |")
    ours.step()  # warms up
    one_step = statistics.median(ours.timed(ours.step, 1)["seconds"] for _ in range(steps))
    epoch = one_step * ours.facts()["epoch_steps"]
    state = ours.training.state_dict
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder), "a-run", print)
        saves = [timed(lambda n=n: checkpoints.save(0, n, {"training": state()})) for n in range(SAVES)]
        load = statistics.median(timed(checkpoints.load) for _ in range(SAVES))
        size = checkpoints.paths()[0].stat().st_size / 1e6
    save = statistics.median(saves)
    print(f"| {case.model} | {size:.1f} | {save:.3f} | {load:.3f} | {epoch:.0f} | {save / epoch:.3%} |", flush=True)


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
