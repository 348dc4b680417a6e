"""How a run on the CPU gets on: how long it will take, and why it may have become slow."""

import logging

MESSAGES = logging.getLogger("sam_bench")

HOURS = 3600.0
STEPS = 10
SECONDS = 20.0
"""The first pace is measured over so many steps or seconds, a later one over so many steps and seconds."""
SLOWED = 2.5
"""So many times as long as the first steps, and somebody else must be using the cores: two runs that both use all of
them wait for each other, and so take more than twice as long each."""


class Pace:
    """Warns of a run that will take hours, and, once, of steps that have become far slower than the first ones."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.steps = 0
        self.seconds = 0.0
        self.first: float | None = None
        """Seconds of a step, at first."""
        self.slowed = False

    def after_step(self, seconds: float, position: int, left: int | None) -> None:
        """Take a step into account; the first of a process, which warms up, does not count.

        Args:
            seconds: of the epoch's training until now.
            position: steps of the epoch until now.
            left: steps of the run that are left; None if no estimate of its time is wanted.
        """
        last = self.last
        self.last = seconds
        if last is None:
            return
        last = 0.0 if position == 1 else last
        self.steps += 1
        self.seconds += seconds - last
        enough = self.steps >= STEPS, self.seconds >= SECONDS
        if self.first is None and any(enough):
            self.first = self._measured()
            if left is not None and self.first * left > HOURS:
                MESSAGES.warning(
                    f"this run will take about {self.first * left / HOURS:.0f} hours on this CPU. "
                    "experiment=noisy40 takes minutes, if nothing else uses the cores"
                )
        elif self.first is not None and all(enough):
            ratio = self._measured() / self.first
            if ratio > SLOWED and not self.slowed:
                self.slowed = True
                MESSAGES.warning(
                    f"steps now take {ratio:.1f} times as long as the first ones did: something else is using these "
                    "cores. Runs side by side share them with -m hydra/launcher=joblib, or, started one by one, with "
                    "OMP_NUM_THREADS=1 for each"
                )

    def _measured(self) -> float:
        pace = self.seconds / self.steps
        self.steps = 0
        self.seconds = 0.0
        return pace
