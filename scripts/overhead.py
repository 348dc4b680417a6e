"""What the engine costs beyond its forward-backward passes, for every method, measured side by side in one run.

python scripts/overhead.py [model=resnet20] [batch=128] [rounds=30] [device=cpu] [precision=auto]

A step's seconds are divided by those of as many bare forward-backward passes as it counts, on the same network and
batch: 1 would be free. Steps and bare passes take turns; medians over the rounds, and quartiles.
"""

import statistics
import sys
import time

import torch
from rich.progress import track

from sam_bench.errors import UserError
from sam_bench.hardware import Hardware
from sam_bench.models.registry import model as build_model
from sam_bench.optim.registry import METHODS, method
from sam_bench.processes import Processes
from sam_bench.training.step import EagerStep

PERIOD = 10
"""Steps a round: a multiple of every k, so that each round holds the same steps."""


def main(arguments: list[str]) -> None:
    given = {"model": "resnet20", "batch": "128", "rounds": "30", "device": "cpu", "precision": "auto"}
    given |= dict(argument.partition("=")[::2] for argument in arguments)
    if len(given) > 5 or not (given["batch"] + given["rounds"]).isdigit():
        sys.exit(__doc__.strip())
    try:
        hardware = Hardware.choose(given["device"], given["precision"])
        build_model(given["model"])
    except UserError as error:
        sys.exit(f"Error: {error}")
    hardware.configure(deterministic=False)
    images = torch.randn(int(given["batch"]), 3, 32, 32, device=hardware.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (len(images),), device=hardware.device)

    def new_step(name: str) -> EagerStep:
        torch.manual_seed(0)
        network = build_model(given["model"]).to(hardware.device, memory_format=torch.channels_last).train()
        options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
        optimizer = method(name)(network.named_parameters(), torch.optim.SGD, model=network, **options)
        return EagerStep(network, optimizer, hardware, Processes(hardware.device.type), 0.1, scaler=hardware.scaler())

    def bare(step: EagerStep) -> None:
        for p in step.model.parameters():
            p.grad = None
        with hardware.autocast():
            logits = step.model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()

    def seconds(action, count: int) -> float:
        hardware.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            action()
        hardware.synchronize()
        return (time.perf_counter() - started) / count

    steps, alone = {name: new_step(name) for name in METHODS}, new_step("sgd")
    for step in steps.values():
        seconds(lambda step=step: step(images, labels), 2)
    seconds(lambda: bare(alone), 2)
    shares: dict[str, list[float]] = {name: [] for name in METHODS}
    passes = {}
    for _ in track(range(int(given["rounds"])), "measuring", transient=True):
        for name, step in steps.items():
            before = step.optimizer.passes
            one_pass = seconds(lambda: bare(alone), PERIOD)
            one_step = seconds(lambda step=step: step(images, labels), PERIOD)
            one_pass = (one_pass + seconds(lambda: bare(alone), PERIOD)) / 2
            passes[name] = (step.optimizer.passes - before) / PERIOD
            shares[name].append(one_step / (passes[name] * one_pass))
    print(f"{given['model']}, batch {len(images)}, {hardware.name}, {hardware.precision}, torch {torch.__version__}\n")
    print("| method | passes a step | seconds over bare passes | quartiles |\n| --- | --- | --- | --- |")
    for name, values in shares.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {METHODS[name].title} | {passes[name]:.3g} | {middle:.3f} | {low:.3f} – {high:.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
