"""A stopwatch for the seconds of work, without the pauses in between."""

import time


class Stopwatch:
    """A count of seconds that can be paused; it begins paused, at 0."""

    def __init__(self) -> None:
        #: Seconds counted before the last start.
        self.before = 0.0
        #: The time of the last start; None while paused.
        self.since = None

    @property
    def seconds(self) -> float:
        """Return the seconds counted so far."""
        return self.before + (0.0 if self.since is None else time.perf_counter() - self.since)

    def run(self) -> None:
        """Start counting, or continue after a pause."""
        if self.since is None:
            self.since = time.perf_counter()

    def pause(self) -> None:
        """Stop counting until the next `run()`."""
        self.before = self.seconds
        self.since = None

    def reset(self, seconds: float = 0.0) -> None:
        """Set the seconds counted so far, and pause."""
        self.before = seconds
        self.since = None
