"""What a machine with CUDA makes of this code: the tests that need it, then the benchmark, all within some minutes.

python scripts/gpu_check.py --minutes 8 --device cuda --models wrn16_8,resnet20

These are its defaults. The tests get half of the time, and are stopped when it is over; the benchmark gets the rest,
and any of its options, which are those below. What was printed and measured until then lies in the folder --out, the
former as gpu-check.log. With --device cpu it is a rehearsal, in which the tests skip. Exit code 1 if a test failed, not
all of them were run, or the benchmark failed.
"""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from scripts.benchmark.benchmark import options_of
from scripts.process_tree import ending, kill_trees

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = ["--minutes", "8", "--device", "cuda", "--models", "wrn16_8,resnet20"]
TESTS = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-n", "4", "--rootdir", str(ROOT), str(ROOT / "tests")]
BENCHMARK = [sys.executable, str(ROOT / "scripts" / "benchmark" / "benchmark.py")]
STARTING = 15.0
"""Seconds of the benchmark's time in which it starts and ends."""
ENDING = 15.0
"""Seconds in which what is stopped may say what it has; pytest waits 10 for its workers."""


def main(arguments: list[str]) -> None:
    began = time.monotonic()
    words = options_of(__doc__)
    options = words.parse_args([*DEFAULTS, *arguments])
    if not math.isfinite(options.minutes):
        words.error("--minutes is a finite number")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("Error: torch finds no CUDA device here; --device cpu rehearses the check without one")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        log = options.out / "gpu-check.log"
        log.write_text("", encoding="utf-8")
    except OSError as error:
        sys.exit(f"Error: {error}")
    deadline = began + 60 * options.minutes
    tested = run(TESTS, (began + deadline) / 2, log)
    minutes = max(deadline - time.monotonic() - STARTING, 1) / 60
    measured = run([*BENCHMARK, *DEFAULTS, *arguments, "--minutes", f"{minutes:.3f}"], deadline, log)
    sys.exit(0 if tested and measured else 1)


def run(command: list[str], until: float, log: Path) -> bool:
    """Run a command, show what it prints and add it to the log; returns whether it succeeded, and in time.

    Args:
        until: by `time.monotonic()`, when it is stopped with all that it has started.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as written, log.open(encoding="utf-8") as read:
        read.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None and time.monotonic() < until:
                print(read.read(), end="", flush=True)
                time.sleep(0.1)
            if process.poll() is None:
                with ending(process, ENDING):
                    process.send_signal(signal.SIGINT)
                written.write(f"\nStopped, since its time was over: {' '.join(command)}\n")
                written.flush()
        finally:
            kill_trees([process.pid] if process.poll() is None else [])
        print(read.read(), end="", flush=True)
    return process.wait() == 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main(sys.argv[1:])
