"""The console output of a run: a progress bar in a terminal, otherwise one line per epoch."""

import logging
import sys
from collections.abc import Mapping

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sam_bench.loggers.base import Run, Values

#: All messages of the package go through this logger: to the console below, and to any other handler of the user.
MESSAGES = logging.getLogger("sam_bench")

#: The values of an epoch that are shown.
SHOWN = ("lr", "train_loss", "train_error", "test_loss", "test_error", "train_seconds")


class Console(logging.Handler):
    """A logger that prints progress and the package's messages. Without a bar, warnings go to the standard error.

    Args:
        kind: "bar", "plain", "none" (warnings only), or "auto": a bar if the output is a terminal, else plain lines.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.terminal = Terminal()
        self.kind = kind if kind != "auto" else ("bar" if self.terminal.is_terminal else "plain")
        self.run: Run | None = None

    def start(self, run: Run) -> None:
        self.run = run

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.terminal,
            disable=self.kind != "bar",
        )
        self.task = self.bar.add_task(run.name, total=run.steps, completed=run.done, speed="")

        # Messages show from here on; `finish` restores the level.
        self.level = MESSAGES.level
        MESSAGES.addHandler(self)
        MESSAGES.setLevel(logging.INFO)

        self.bar.start()
        MESSAGES.info(run.description)

    def step(self, images_per_second: float) -> None:
        """Advance the bar by one step, and show the speed."""
        self.bar.update(self.task, advance=1, speed=f"{images_per_second:,.0f} images/s")

    def log(self, epoch: int, values: Values) -> None:
        shown = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if values.get(name) is not None)
        MESSAGES.info(f"epoch {epoch}/{self.run.epochs}  {shown}")

    def finish(self, summary: Mapping[str, object] | None) -> None:
        self.bar.stop()
        MESSAGES.removeHandler(self)
        MESSAGES.setLevel(self.level)

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{self.run.name}  {record.getMessage()}"
        warning = record.levelno >= logging.WARNING
        if self.kind == "bar":
            self.terminal.print(text, style="yellow" if warning else None, highlight=False, soft_wrap=True)
        elif warning:
            print(text, file=sys.stderr, flush=True)
        elif self.kind == "plain":
            print(text, flush=True)
