"""Kill runs with -9 at random moments until they are finished, and compare what they end in, bit for bit.

python scripts/torture.py [kills=300] [seed=0]

Each round takes the next method, with a weight average or in half precision, and the same short run twice: left alone,
and started again after each kill. A checkpoint is saved after every step, and half of the kills wait for a process that
is writing one. Weights, states, history and record must be the same but for times. Exit code 1 if they are not.
"""

import io
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.runs.record import MEASURED

RUN = ["data=synthetic", "data.train_subset=60", "trainer.batch_size=8", "trainer.epochs=3", "trainer.device=cpu",
       "trainer.eval_batch_size=100", "model=resnet8", "trainer.checkpoint_minutes=1e-9"]  # fmt: skip
VARIANTS = (
    ["averaging=swa", "averaging.starts=[0.0,0.5]"],
    ["averaging=ema", "trainer.precision=fp16", "data.train_subset=20"],
    [],
)


def main(arguments: list[str]) -> None:
    given = {"kills": "300", "seed": "0"} | dict(argument.partition("=")[::2] for argument in arguments)
    if len(given) > 2 or not all(value.isdigit() for value in given.values()):
        sys.exit(__doc__.strip())
    draw, wanted, kills, rounds = random.Random(int(given["seed"])), int(given["kills"]), 0, 0
    multiprocessing.set_forkserver_preload(["sam_bench.cli.main", "sam_bench.runs.run", "torch._dynamo"])
    warm = multiprocessing.get_context("forkserver").Process(target=int)  # the imports, which are no part of a run
    warm.start()
    warm.join()
    with tempfile.TemporaryDirectory() as folder:
        while kills < wanted:
            method = list(METHODS)[rounds % len(METHODS)]
            variant = VARIANTS[0 if METHODS[method].averages else rounds % len(VARIANTS)]
            overrides = [*RUN, f"optimizer={method}", f"seed={rounds}", *variant]
            alone, tortured = Path(folder) / f"{rounds}-alone", Path(folder) / f"{rounds}-tortured"
            began = time.monotonic()
            attempt(alone, overrides, None)
            seconds, here, torn = time.monotonic() - began, 0, set()
            while not list(tortured.rglob("records/*.json")):
                last = kills + here >= wanted
                after = None if last else draw.uniform(0, seconds / 2)
                here += attempt(tortured, overrides, after, writing=draw.random() < 0.5 and not last)
                torn |= temporary(tortured)
            same = ending(alone) == ending(tortured)
            print(f"{method:<14}{' '.join(variant[:2]):<48}{here:>4} kills, {len(torn):>3} within writing  "
                  f"{'the same, bit for bit' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
            if not same:
                sys.exit(1)
            kills, rounds = kills + here, rounds + 1
    print(f"{kills} kills in {rounds} runs: all ended as if left alone")


def attempt(folder: Path, overrides: list[str], seconds: float | None, writing: bool = False) -> bool:
    """Start the run, and kill it after so many seconds, or then as soon as it writes a checkpoint.

    Returns:
        Whether it had to be killed.
    """
    before = temporary(folder)
    process = multiprocessing.get_context("forkserver").Process(target=go, args=(folder, overrides))
    process.start()
    process.join(seconds)
    while writing and process.is_alive() and temporary(folder) <= before:
        pass
    if killed := process.is_alive():
        process.kill()
        process.join()
    elif process.exitcode:
        sys.exit(f"a run ended with code {process.exitcode}")
    return killed


def temporary(folder: Path) -> set[Path]:
    """Files that are being written, or were when their writer was killed; no two have one name."""
    return set((folder / "runs" / "default").glob("*/.checkpoint-*"))


def go(folder: Path, overrides: list[str]) -> None:
    """One start of the run, in a process of its own."""
    from sam_bench.data import synthetic
    from sam_bench.runs import run

    torch.set_num_threads(1)
    synthetic.TRAIN, synthetic.TEST = 100, 100
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with redirect_stdout(io.StringIO()):
        run.execute(compose([*overrides, "trainer.progress=none"]))


def ending(folder: Path) -> object:
    """What a run left: its last checkpoint and its record, but for times, tensors as bytes."""
    checkpoint = torch.load(max(folder.rglob("checkpoint-*.pt")), weights_only=True)
    (record,) = folder.rglob("records/*.json")
    return plain([checkpoint, json.loads(record.read_text())])


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in MEASURED}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return repr(value)


if __name__ == "__main__":
    main(sys.argv[1:])
