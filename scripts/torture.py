"""Kill runs with SIGKILL at random moments until they finish, and check that the result is the same bit for bit.

python scripts/torture.py --kills 300 --seed 0

Each round takes the next method, with a weight average, in half precision or plain. It trains the same short run twice:
once without kills, and once with a restart after each kill. A checkpoint is saved after every step. Half of the kills
wait until the process is writing one. Weights, states, history and record must be the same, except for times. The exit
code is 1 if they differ.
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

from sam_bench.cli.arguments import at_least, parser
from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.runs.record import MEASURED

RUN = ["data=synthetic", "data.train_subset=60", "trainer.batch_size=8", "trainer.epochs=3", "trainer.device=cpu",
       "trainer.eval_batch_size=100", "model=resnet8", "trainer.checkpoint_minutes=1e-9"]  # fmt: skip
#: A network with few multiplications, for half precision, whose convolutions are slow on a CPU.
FEW_MULTIPLICATIONS = ["model=torchvision", "model.arch=mobilenet_v3_small"]
VARIANTS = (
    ["averaging=swa", "averaging.starts=[0.0,0.5]"],
    ["averaging=ema", "trainer.precision=fp16", "data.train_subset=20", *FEW_MULTIPLICATIONS],
    [],
)


def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument(
        "--kills", default=300, type=at_least(1), help="number of kills in all rounds together"
    )
    arguments_parser.add_argument("--seed", default=0, type=int, help="seed of the moments of the kills")
    options = arguments_parser.parse_args(arguments)

    # The first process makes the fork server import everything, so that no run below is timed with its imports.
    multiprocessing.set_forkserver_preload(["sam_bench.cli.main", "sam_bench.runs.run", "torch._dynamo"])
    import_process = multiprocessing.get_context("forkserver").Process(target=int)
    import_process.start()
    import_process.join()

    draw = random.Random(options.seed)
    kills = 0
    rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        while kills < options.kills:
            kills += one_round(Path(folder), rounds, options.kills - kills, draw)
            rounds += 1
    print(f"{kills} kills in {rounds} runs: all ended as if left alone")


def one_round(folder: Path, number: int, wanted: int, draw: random.Random) -> int:
    """Train a run without and with kills, compare the two, and return the number of kills.

    Exits with code 1 if the results differ.

    Args:
        number: index of the round, which decides the method and the variant.
        wanted: maximum number of kills.
    """
    method = list(METHODS)[number % len(METHODS)]
    variant = VARIANTS[0 if METHODS[method].averages else number % len(VARIANTS)]
    overrides = [*RUN, f"optimizer={method}", f"seed={number}", *variant]

    undisturbed = folder / f"{number}-alone"
    interrupted = folder / f"{number}-tortured"
    began = time.monotonic()
    attempt(undisturbed, overrides, None)
    seconds = time.monotonic() - began

    kills, torn = torment(interrupted, overrides, seconds, wanted, draw)
    same = ending(undisturbed) == ending(interrupted)
    print(f"{method:<14}{' '.join(variant[:2]):<48}{kills:>4} kills, {torn:>3} while writing  "
          f"{'the same, bit for bit' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
    if not same:
        sys.exit(1)
    return kills


def torment(folder: Path, overrides: list[str], seconds: float, wanted: int, draw: random.Random) -> tuple[int, int]:
    """Start a run again and again until it is finished; return the number of kills, and of kills during a write.

    Args:
        seconds: duration of the run without kills.
        wanted: maximum number of kills.
    """
    kills = 0
    torn: set[Path] = set()
    while not list(folder.rglob("records/*.json")):
        let_finish = kills >= wanted
        delay = None if let_finish else draw.uniform(0, seconds / 2)
        kills += attempt(folder, overrides, delay, writing=draw.random() < 0.5 and not let_finish)
        torn |= temporary(folder)
    return kills, len(torn)


def attempt(folder: Path, overrides: list[str], seconds: float | None, writing: bool = False) -> bool:
    """Start the run, and kill it if it does not end in time.

    Args:
        seconds: time until the kill; None lets the run end by itself.
        writing: wait after that time until the run is writing a checkpoint.

    Returns:
        True if the run was killed.
    """
    earlier_files = temporary(folder)
    process = multiprocessing.get_context("forkserver").Process(target=go, args=(folder, overrides))
    process.start()
    process.join(seconds)
    while writing and process.is_alive() and temporary(folder) <= earlier_files:
        pass
    if killed := process.is_alive():
        process.kill()
        process.join()
    elif process.exitcode:
        sys.exit(f"a run ended with code {process.exitcode}")
    return killed


def temporary(folder: Path) -> set[Path]:
    """Return the temporary files of checkpoints: being written now, or left by a kill. Each has a name of its own."""
    return set((folder / "runs" / "default").glob("*/.checkpoint-*"))


def go(folder: Path, overrides: list[str]) -> None:
    """Train the run to its end, or continue it; to be called in a child process."""
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
    """Return a run's last checkpoint and its record, without times and with tensors as bytes."""
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
