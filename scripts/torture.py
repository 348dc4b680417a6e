"""Kill runs with -9 at random moments until they are finished, and compare what they end in, bit for bit.

python scripts/torture.py --kills 300 --seed 0

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
from scripts.arguments import at_least, parser

RUN = ["data=synthetic", "data.train_subset=60", "trainer.batch_size=8", "trainer.epochs=3", "trainer.device=cpu",
       "trainer.eval_batch_size=100", "model=resnet8", "trainer.checkpoint_minutes=1e-9"]  # fmt: skip
FEW_MULTIPLICATIONS = ["model=torchvision", "model.arch=mobilenet_v3_small"]
"""For half precision, over whose convolutions torch takes its time on a CPU."""
VARIANTS = (
    ["averaging=swa", "averaging.starts=[0.0,0.5]"],
    ["averaging=ema", "trainer.precision=fp16", "data.train_subset=20", *FEW_MULTIPLICATIONS],
    [],
)


def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--kills", default=300, type=at_least(1), help="in all rounds together")
    words.add_argument("--seed", default=0, type=int, help="of the moments of the kills")
    options = words.parse_args(arguments)
    multiprocessing.set_forkserver_preload(["sam_bench.cli.main", "sam_bench.runs.run", "torch._dynamo"])
    warm = multiprocessing.get_context("forkserver").Process(target=int)  # the imports, which are no part of a run
    warm.start()
    warm.join()
    draw = random.Random(options.seed)
    kills = 0
    rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        while kills < options.kills:
            kills += one_round(Path(folder), rounds, options.kills - kills, draw)
            rounds += 1
    print(f"{kills} kills in {rounds} runs: all ended as if left alone")


def one_round(folder: Path, number: int, wanted: int, draw: random.Random) -> int:
    """Do a run twice, compare, and return the number of kills; end with exit code 1 if the endings differ."""
    method = list(METHODS)[number % len(METHODS)]
    variant = VARIANTS[0 if METHODS[method].averages else number % len(VARIANTS)]
    overrides = [*RUN, f"optimizer={method}", f"seed={number}", *variant]
    alone = folder / f"{number}-alone"
    tortured = folder / f"{number}-tortured"
    began = time.monotonic()
    attempt(alone, overrides, None)
    seconds = time.monotonic() - began
    kills, torn = torment(tortured, overrides, seconds, wanted, draw)
    same = ending(alone) == ending(tortured)
    print(f"{method:<14}{' '.join(variant[:2]):<48}{kills:>4} kills, {torn:>3} within writing  "
          f"{'the same, bit for bit' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
    if not same:
        sys.exit(1)
    return kills


def torment(folder: Path, overrides: list[str], seconds: float, wanted: int, draw: random.Random) -> tuple[int, int]:
    """Start a run again and again until it is finished; return the kills, and how many came while it was writing.

    Args:
        seconds: that it takes if left alone.
        wanted: kills, at most.
    """
    kills = 0
    torn: set[Path] = set()
    while not list(folder.rglob("records/*.json")):
        last = kills >= wanted
        after = None if last else draw.uniform(0, seconds / 2)
        kills += attempt(folder, overrides, after, writing=draw.random() < 0.5 and not last)
        torn |= temporary(folder)
    return kills, len(torn)


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
    """Return files that are being written, or were when their writer was killed; no two have one name."""
    return set((folder / "runs" / "default").glob("*/.checkpoint-*"))


def go(folder: Path, overrides: list[str]) -> None:
    """Start the run once, in a process of its own."""
    from sam_bench.data import synthetic
    from sam_bench.runs.run import run
    from sam_bench.runs.spec import RunSpec

    torch.set_num_threads(1)
    synthetic.TRAIN = 100
    synthetic.TEST = 100
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with redirect_stdout(io.StringIO()):
        run(RunSpec.resolve(compose([*overrides, "trainer.progress=none"])))


def ending(folder: Path) -> object:
    """Return what a run left: its last checkpoint and its record, but for times, tensors as bytes."""
    checkpoint = torch.load(max(folder.rglob("checkpoint-*.pt")), weights_only=True)
    (record,) = folder.rglob("records/*.json")
    return plain([checkpoint, json.loads(record.read_text(encoding="utf-8"))])


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
