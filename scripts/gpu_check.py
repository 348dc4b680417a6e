"""Check the code on a machine with CUDA: run the tests that need CUDA, then the benchmark, within a few minutes.

python scripts/gpu_check.py --minutes 8 --device cuda --models wrn16_8,resnet20

These are the defaults. The tests get half of the time and are stopped when it is over. The benchmark gets the rest; the
options below are the benchmark's and are passed on to it. The folder --out gets the output, as gpu-check.log, and the
measurements. --device cpu is a rehearsal in which the tests are skipped. The exit code is 1 if a test failed, if the
tests were stopped, or if the benchmark failed.
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
#: Seconds reserved for the benchmark to start and to end.
STARTING = 15.0
#: Seconds that a stopped command has to report its results; pytest waits 10 seconds for its workers.
ENDING = 15.0


def main(arguments: list[str]) -> None:
    start = time.monotonic()
    arguments_parser = options_of(__doc__)
    options = arguments_parser.parse_args([*DEFAULTS, *arguments])
    if not math.isfinite(options.minutes):
        arguments_parser.error("--minutes must be finite")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("Error: torch finds no CUDA device here. To rehearse the check without one, add --device cpu.")

    try:
        options.out.mkdir(parents=True, exist_ok=True)
        log = options.out / "gpu-check.log"
        log.write_text("", encoding="utf-8")
    except OSError as error:
        sys.exit(f"Error: {error}")

    deadline = start + 60 * options.minutes
    tests_passed = run(TESTS, (start + deadline) / 2, log)
    minutes = max(deadline - time.monotonic() - STARTING, 1) / 60
    benchmark_succeeded = run([*BENCHMARK, *DEFAULTS, *arguments, "--minutes", f"{minutes:.3f}"], deadline, log)
    sys.exit(0 if tests_passed and benchmark_succeeded else 1)


def run(command: list[str], deadline: float, log: Path) -> bool:
    """Run a command, and copy its output to the terminal and the log; return True if it succeeded in time.

    Args:
        deadline: the `time.monotonic()` at which the command and all its descendants are stopped.
        log: a file, which the output is appended to.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as log_writer, log.open(encoding="utf-8") as log_reader:
        log_reader.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdout=log_writer, stderr=subprocess.STDOUT, env=environment)

        try:
            while process.poll() is None and time.monotonic() < deadline:
                print(log_reader.read(), end="", flush=True)
                time.sleep(0.1)
            if process.poll() is None:
                with ending(process, ENDING):
                    process.send_signal(signal.SIGINT)
                log_writer.write(f"\nStopped at its time limit: {' '.join(command)}\n")
                log_writer.flush()
        finally:
            kill_trees([process.pid] if process.poll() is None else [])

        print(log_reader.read(), end="", flush=True)
    return process.wait() == 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main(sys.argv[1:])
