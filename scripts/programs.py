"""Python programs that a script starts, waits for, and lets end in good order."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from sam_bench.runtime.signals import SIGNALS


class Programs:
    """Runs Python programs to their ends.

    A signal that asks this process to end is sent on to those that run, which save what they have; no more are begun.

    Args:
        at_once: how many run side by side.
        environment: their variables, by default those of this process.
    """

    def __init__(self, at_once: int = 1, environment: Mapping[str, str] | None = None):
        self.at_once = at_once
        self.environment = environment
        self.running: set[subprocess.Popen] = set()
        self.stopped: int | None = None
        """The number of the signal, where one has come."""

    def run(
        self, programs: Sequence[Sequence[str]], ended: Callable[[int, int], None] = lambda number, code: None
    ) -> list[int | None]:
        """Run them all.

        Args:
            programs: the arguments of Python for each.
            ended: called with a program's number and its exit code when it has ended.

        Returns:
            The exit code of each; None for one that was not begun.
        """

        def one(number: int) -> int | None:
            if self.stopped is not None:
                return None
            process = subprocess.Popen([sys.executable, *programs[number]], env=self.environment)
            self.running.add(process)
            if self.stopped is not None:  # the signal came while it was started
                process.send_signal(self.stopped)
            code = process.wait()
            self.running.discard(process)
            ended(number, code)
            return code

        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            with ThreadPoolExecutor(self.at_once) as pool:
                return list(pool.map(one, range(len(programs))))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = number
        for process in tuple(self.running):
            process.send_signal(number)
