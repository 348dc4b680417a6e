"""What a checkpoint costs: bytes, seconds to save and to load, and the share of an epoch.

python scripts/benchmark/checkpoint_cost.py [models=resnet20,wrn16_8] [optimizer=sam] [steps=5] [device=auto]

An epoch is counted as its number of steps times the median of so many, on generated images of CIFAR-10's size and
number. Medians of five checkpoints, in the current folder's file system.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from sam_bench.cli.compose import compose
from sam_bench.data import synthetic
from sam_bench.errors import UserError
from sam_bench.loggers.console import Reporter
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.build import load_data, prepare

SAVES = 5


def main(arguments: list[str]) -> None:
    given = {"models": "resnet20,wrn16_8", "optimizer": "sam", "steps": "5", "device": "auto"}
    given |= dict(argument.partition("=")[::2] for argument in arguments)
    if len(given) > 4 or not given["steps"].isdigit():
        sys.exit(__doc__.strip())
    synthetic.TRAIN, synthetic.TEST = 50_000, 1_000
    try:
        for number, model in enumerate(given["models"].split(",")):
            measure(model, given["optimizer"], int(given["steps"]), given["device"], heading=number == 0)
    except UserError as error:
        sys.exit(f"Error: {error}")


def measure(model: str, optimizer: str, steps: int, device: str, heading: bool) -> None:
    """Print a network's row."""
    config = compose(["data=synthetic", f"model={model}", f"optimizer={optimizer}", f"trainer.device={device}"])
    hardware = Hardware.choose(device, config.trainer.precision)
    training = prepare(config, load_data(config.data), hardware, Processes(hardware.device.type))
    if heading:
        print(f"{optimizer}, batch {config.trainer.batch_size}, {hardware.name}, {hardware.precision}\n")
        print("| network | MB | seconds to save | to load | of an epoch | share of the epoch |")
        print("| --- | --- | --- | --- | --- | --- |")
    boundaries = training.run(Reporter("none", "", training.steps, 0))
    next(boundaries)  # warms up
    one_step = statistics.median(timed(lambda: (next(boundaries), hardware.synchronize())) for _ in range(steps))
    epoch = one_step * len(training.train)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder), "a-run", print)
        save = [timed(lambda n=n: checkpoints.save(0, n, {"training": training.state_dict()})) for n in range(SAVES)]
        load = [timed(checkpoints.load) for _ in range(SAVES)]
        size = checkpoints.paths()[0].stat().st_size
    save, load = statistics.median(save), statistics.median(load)
    print(f"| {model} | {size / 1e6:.1f} | {save:.3f} | {load:.3f} | {epoch:.0f} | {save / epoch:.3%} |", flush=True)


def timed(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
