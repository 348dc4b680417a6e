"""Weights & Biases as a mirror of what the local files hold, kept by a process of its own.

It may be absent, refuse, hang or die: that is a warning, and at most some seconds. Run as a program, this module is
that process: it reads a JSON object a line, first the arguments of `wandb.init`, then values or the summary.
"""

import json
import logging
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

PATIENCE = 10.0
"""Seconds that a run waits, at its end, for the mirror."""


FAILED = "W&B failed and is left out; the run's own files are complete"

SAID = 3
"""The code with which the mirror's process ends when it has said why."""


class Settings(fields.Settings):
    """Weights & Biases (`logger=wandb`)."""

    mode: Literal["offline", "online"]
    project: str
    entity: str | None = None

    def model_post_init(self, context: Any) -> None:
        if not self.project:
            raise ConfigError("logger.wandb.project is empty; give the project a name")


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
        self._tell(
            project=self.settings.project,
            entity=self.settings.entity,
            mode=self.settings.mode,
            group=run.experiment,
            name=run.name,
            id=f"{run.experiment}-{run.name}".replace("/", "-"),
            resume="allow",
            config=run.settings,
            dir=str(run.folder),
        )

    def log(self, epoch: int, values: Values) -> None:
        self._tell(log={"epoch": epoch, **values})

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
    import wandb

    run = wandb.init(**json.loads(lines.get()), settings=wandb.Settings(init_timeout=PATIENCE, silent=True))
    summary = None
    for line in map(json.loads, iter(lines.get, None)):
        if "log" in line:
            run.log(line["log"])
        else:
            summary = line["finish"]
    if summary:
        run.summary.update(summary)
    run.finish(exit_code=0 if summary else 1)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # whatever it is, the run's own files are complete without it
        print(f"{FAILED}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(SAID)  # without W&B's own end, which may wait for its server
