"""Seconds of work, without the pauses between."""

import time


class Stopwatch:
    """Counts while it runs."""

    def __init__(self) -> None:
        self.before = 0.0
        self.since = None

    @property
    def seconds(self) -> float:
        return self.before + (0.0 if self.since is None else time.perf_counter() - self.since)

    def run(self) -> None:
        """Go on counting."""
        if self.since is None:
            self.since = time.perf_counter()

    def pause(self) -> None:
        """Stop counting for a while."""
        self.before = self.seconds
        self.since = None

    def reset(self, seconds: float = 0.0) -> None:
        """Start from so many seconds, paused."""
        self.before = seconds
        self.since = None
