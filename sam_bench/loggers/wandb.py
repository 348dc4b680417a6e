"""Weights & Biases as a mirror of what the local files hold, kept by a process of its own.

It may be absent, refuse, hang or die: that is a warning, and at most some seconds. Run as a program, this module is
that process: it reads a JSON object a line, first the arguments of `wandb.init`, then values or the summary.
"""

import json
import logging
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sam_bench.config import fields
from sam_bench.errors import ConfigError
from sam_bench.loggers.base import Run, Values

MESSAGES = logging.getLogger("sam_bench")

#: Seconds that a run waits, at its end, for the mirror.
PATIENCE = 10.0

FAILED = "W&B failed and is left out; the run's own files are complete"

#: The code with which the mirror's process ends when it has said why.
SAID = 3


class Settings(fields.Settings):
    """Weights & Biases (`logger=wandb`)."""

    mode: Literal["offline", "online"]
    project: str
    entity: str | None = None

    def model_post_init(self, context: Any) -> None:
        if not self.project:
            raise ConfigError("logger.wandb.project is empty; give the project a name")


def run_arguments(
    settings: Settings, experiment: str, name: str, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the arguments of `wandb.init` for a run: the same whether it is told of as it goes on or afterwards."""
    return {
        "project": settings.project,
        "entity": settings.entity,
        "mode": settings.mode,
        "group": experiment,
        "name": name,
        "id": run_id(experiment, name),
        "resume": "allow",
        "config": dict(config),
        "dir": str(folder),
    }


def run_id(experiment: str, name: str) -> str:
    """Return the id of an experiment's run in a project of W&B's."""
    return f"{experiment}-{name}".replace("/", "-")


def begin(arguments: Mapping[str, Any], **settings: Any) -> Any:
    """Return W&B's run.

    Args:
        arguments: of `wandb.init`.
        settings: of W&B itself, beside those that every run has, or in their place.
    """
    import wandb

    of_all = {"init_timeout": PATIENCE, "silent": True}
    return wandb.init(**arguments, settings=wandb.Settings(**of_all | settings))


def draw_against_epoch(run: Any) -> None:
    """Have all curves of W&B's run drawn against the epoch."""
    run.define_metric("epoch", hidden=True)
    run.define_metric("*", step_metric="epoch")


def log_epoch(run: Any, epoch: int, values: Values) -> None:
    """Tell W&B's run what was measured in an epoch, unless it was told so before it was resumed."""
    if epoch >= run.starting_step:
        measured = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        run.log({"epoch": epoch, **measured}, step=epoch)


def end(run: Any, summary: Mapping[str, object] | None) -> None:
    """End W&B's run; without a summary it has failed."""
    if summary:
        run.summary.update(summary)
    run.finish(exit_code=0 if summary else 1)


class Logger:
    """One W&B run a run, in the experiment's group, resumed under the run's own id."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def start(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,  # Ctrl-C is for the run, which tells the mirror
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()
        self._tell(**run_arguments(self.settings, run.experiment, run.name, run.settings, run.folder))

    def log(self, epoch: int, values: Values) -> None:
        self._tell(epoch=epoch, values=values)

    def finish(self, summary: Mapping[str, object] | None) -> None:
        until = time.monotonic() + PATIENCE
        self._tell(finish=summary)
        self.lines.put(None)
        try:
            code = self.process.wait(until - time.monotonic())
            reason = None if code in (0, SAID) else f"its process ended with code {code}"
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            reason = f"no answer in {PATIENCE:g} seconds"
        if reason:
            MESSAGES.warning(f"{FAILED}: {reason}")

    def _tell(self, **line: Any) -> None:
        self.lines.put(json.dumps(line) + "\n")

    def _write(self) -> None:
        """Pass the lines on: a pipe may be full, and the run must not wait for it."""
        try:
            with self.process.stdin as pipe:
                while (line := self.lines.get()) is not None:
                    pipe.write(line)
                    pipe.flush()
        except OSError:  # the process has ended, and said why
            pass


def receive(lines: "queue.SimpleQueue[str | None]") -> None:
    """Read what comes; some time after its end, end this process too, whatever W&B waits for."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    time.sleep(2 * PATIENCE)
    os._exit(SAID)


def main() -> None:
    """Mirror what comes from the standard input; where that ends without a summary, the run has failed."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=receive, args=(lines,), daemon=True).start()
    run = begin(json.loads(lines.get()))
    draw_against_epoch(run)
    summary = None
    for line in map(json.loads, iter(lines.get, None)):
        if "epoch" in line:
            log_epoch(run, **line)
        else:
            summary = line["finish"]
    end(run, summary)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # whatever it is, the run's own files are complete without it
        print(f"{FAILED}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(SAID)  # without W&B's own end, which may wait for its server
