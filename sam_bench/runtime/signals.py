"""Requests to end a run: by a signal, by a time limit, or by a sweep."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

#: Signals that ask a run to end, sent by a user, or by a scheduler that needs the machine or is near its time limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

#: Seconds within which another signal counts as the same request: Ctrl-C under torchrun, and schedulers, send it twice.
ECHO_SECONDS = 1.0


class Interruption:
    """A context in which a signal is recorded instead of ending the program; a second one ends it at once.

    Python handles signals in the main thread only. In another thread only the time limit and `elsewhere` count.

    Args:
        max_minutes: time limit, from now on; None for no limit.
        elsewhere: returns True if the run is asked to end by other means, such as its sweep.
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
        #: The first signal, and when it came.
        self.signal: int | None = None
        self.at = 0.0
        #: The handlers that were set before.
        self.earlier: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Return why the run must end after its current step; None while it need not."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.max_minutes is not None and time.monotonic() - self.began >= 60 * self.max_minutes:
            return f"trainer.max_minutes={self.max_minutes:g}"
        return "The sweep was asked to end" if self.elsewhere() else None

    def hand_on(self) -> None:
        """Call the signal's earlier handler, such as a scheduler's that queues the job again.

        Python's own handler of Ctrl-C is not called.
        """
        handler = self.earlier.get(self.signal)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)

    def _record(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; end the program if another one follows that is no echo of it."""
        now = time.monotonic()
        if self.signal is None:
            self.signal = number
            self.at = now
            self.tell()
        elif now - self.at > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
