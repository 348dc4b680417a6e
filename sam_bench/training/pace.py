"""The pace of a run on the CPU: an estimate of its time, and a warning if it has become slow."""

import logging

MESSAGES = logging.getLogger("sam_bench")

#: Seconds of an hour; a run that takes longer is warned of.
HOURS = 3600.0

#: The first pace is measured over this many steps or seconds, a later one over this many steps and seconds.
STEPS = 10
SECONDS = 20.0

#: Steps that take this many times as long as the first ones show that something else uses the cores. Two runs that both
#: use all cores wait for each other, so each takes more than twice as long.
SLOWED = 2.5


class Pace:
    """A watch over the pace of steps. It warns if a run will take hours, and, once, if steps have become far slower."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.steps = 0
        self.seconds = 0.0
        #: Seconds per step in the first measurement.
        self.first: float | None = None
        self.slowed = False

    def after_step(self, seconds: float, position: int, left: int | None) -> None:
        """Record a step, and warn if need be. The first step after the start, which warms up, does not count.

        Args:
            seconds: training time of the epoch so far.
            position: steps of the epoch so far.
            left: steps of the run that are left; None if its time need not be estimated.
        """
        last = self.last
        self.last = seconds
        if last is None:
            return

        # The epoch's clock starts at 0 again with its first step.
        last = 0.0 if position == 1 else last
        self.steps += 1
        self.seconds += seconds - last

        enough = self.steps >= STEPS, self.seconds >= SECONDS
        if self.first is None and any(enough):
            self.first = self._take_pace()
            if left is not None and self.first * left > HOURS:
                MESSAGES.warning(
                    f"this run will take about {self.first * left / HOURS:.0f} hours on this CPU. "
                    "experiment=noisy40 takes minutes, if nothing else uses the cores"
                )
        elif self.first is not None and all(enough):
            ratio = self._take_pace() / self.first
            if ratio > SLOWED and not self.slowed:
                self.slowed = True
                MESSAGES.warning(
                    f"steps now take {ratio:.1f} times as long as the first ones did: something else is using these "
                    "cores. Runs side by side share them with -m hydra/launcher=joblib, or, started one by one, with "
                    "OMP_NUM_THREADS=1 for each"
                )

    def _take_pace(self) -> float:
        """Return the seconds per step since the last call, and start the next measurement."""
        pace = self.seconds / self.steps
        self.steps = 0
        self.seconds = 0.0
        return pace
