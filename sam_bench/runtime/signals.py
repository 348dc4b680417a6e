"""When a run is asked to end: by a signal, or because its time is over."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""What asks a run to end: a user, a scheduler that wants the machine, one whose time limit is near."""

ECHO_SECONDS = 1.0
"""A signal that follows another so soon is the same request: Ctrl-C and torchrun, or a scheduler, send it twice."""


class Interruption:
    """While it is entered, signals are noted instead of ending the program; a second one ends it at once.

    Signals can only be noted in the main thread; elsewhere, only the rest counts.

    Args:
        max_minutes: from now on; None for no limit.
        elsewhere: whether somebody else wants an end.
        tell: called when the first signal comes.
    """

    def __init__(
        self,
        max_minutes: float | None = None,
        elsewhere: Callable[[], bool] = lambda: False,
        tell: Callable[[], None] = lambda: None,
    ):
        self.max_minutes = max_minutes
        self.began = time.monotonic()
        self.elsewhere = elsewhere
        self.tell = tell
        self.signal: int | None = None
        self.at = 0.0
        self.earlier: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Why the run is to end at its next step; None while it may go on."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.max_minutes is not None and time.monotonic() - self.began >= 60 * self.max_minutes:
            return f"trainer.max_minutes={self.max_minutes:g}"
        return "The sweep was asked to end" if self.elsewhere() else None

    def hand_on(self) -> None:
        """Call the function that handled the signal before, such as a scheduler's, which queues the job again.

        Not Python's own handler of Ctrl-C.
        """
        handler = self.earlier.get(self.signal)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal = number
            self.at = now
            self.tell()
        elif now - self.at > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
