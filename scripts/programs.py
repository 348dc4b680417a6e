"""Python programs that a script runs in child processes and shuts down cleanly on a signal."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from sam_bench.runtime.signals import SIGNALS


class Programs:
    """Child processes that run Python programs.

    A signal that asks this process to end is passed on to the running programs, so that they can save their state. No
    further program is started then.

    Args:
        at_once: number of programs that run in parallel.
        environment: environment variables of the programs; by default those of this process.
    """

    def __init__(self, at_once: int = 1, environment: Mapping[str, str] | None = None):
        self.at_once = at_once
        self.environment = environment
        self.running: set[subprocess.Popen] = set()
        #: Number of the signal that was received, if any.
        self.stopped: int | None = None

    def run(
        self, programs: Sequence[Sequence[str]], ended: Callable[[int, int], None] = lambda number, code: None
    ) -> list[int | None]:
        """Run the programs, and wait until all have ended.

        Args:
            programs: Python's command-line arguments for each program.
            ended: called with a program's index and its exit code when it has ended.

        Returns:
            The exit code of each program; None for one that was not started.
        """

        def run_program(number: int) -> int | None:
            if self.stopped is not None:
                return None
            process = subprocess.Popen([sys.executable, *programs[number]], env=self.environment)
            self.running.add(process)
            if self.stopped is not None:  # the signal came while the process was starting
                process.send_signal(self.stopped)
            code = process.wait()
            self.running.discard(process)
            ended(number, code)
            return code

        previous_handlers = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            with ThreadPoolExecutor(self.at_once) as pool:
                return list(pool.map(run_program, range(len(programs))))
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = number
        for process in tuple(self.running):
            process.send_signal(number)
