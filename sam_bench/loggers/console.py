"""What a user sees while a run goes on: a bar in a terminal, a line an epoch elsewhere."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Says how far a run is.

    Args:
        kind: "bar", "plain", "none", or "auto": a bar where the output is a terminal, else plain lines.
        title: what the run is called.
        total: steps of the whole run.
        done: steps done before, when it goes on from a checkpoint.
    """

    def __init__(self, kind: str, title: str, total: int, done: int):
        console = Console()
        self.kind = kind if kind != "auto" else ("bar" if console.is_terminal else "plain")
        self.title = title
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=self.kind != "bar",
        )
        self.task = self.bar.add_task(title, total=total, completed=done, speed="")

    def __enter__(self) -> "Reporter":
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def step(self, images_per_second: float) -> None:
        """One more step is done."""
        self.bar.update(self.task, advance=1, speed=f"{images_per_second:,.0f} images/s")

    def epoch(self, number: int, of: int, values: Mapping[str, float | None]) -> None:
        """One more epoch is done."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
        self.say(f"{self.title}  epoch {number}/{of}  {shown}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.kind == "bar":
            self.bar.console.print(text, highlight=False, soft_wrap=True)
        elif self.kind == "plain":
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """A line on the standard error, whatever the kind."""
        if self.kind == "bar":
            self.bar.console.print(text, style="yellow", soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
