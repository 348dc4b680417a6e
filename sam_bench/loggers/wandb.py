"""A logger that mirrors a run to Weights & Biases (W&B), from a process of its own.

If W&B is missing, refuses, hangs or dies, this costs the run a warning and at most a few seconds. This module is also
the program of that process. It reads one JSON object per line: first the arguments of `wandb.init`, then the values of
each epoch, and at last the summary.
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
from sam_bench.loggers.base import Run, Values, finite

MESSAGES = logging.getLogger("sam_bench")

#: Seconds that a run waits for the mirror's process at its end.
PATIENCE = 10.0

FAILED = "W&B failed and is left out; the run's own files are complete"

#: The exit code of the mirror's process if it has printed the reason for its end itself.
SAID = 3


class Settings(fields.Settings):
    """Weights & Biases (`logger=wandb`)."""

    #: Write files for a later `wandb sync`, or send to the server.
    mode: Literal["offline", "online"]
    #: The project in W&B.
    project: str
    #: The user or team in W&B; null is your own.
    entity: str | None = None

    def model_post_init(self, context: Any) -> None:
        if not self.project:
            raise ConfigError("logger.wandb.project is empty; give the project a name")


def run_arguments(
    settings: Settings, experiment: str, name: str, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the arguments of `wandb.init` for a run, which are the same while it trains and in a later sync."""
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
    """Return the id of a run in its W&B project."""
    return f"{experiment}-{name}".replace("/", "-")


def begin(arguments: Mapping[str, Any], **settings: Any) -> Any:
    """Start or resume a W&B run, and return it.

    Args:
        arguments: the arguments of `wandb.init`.
        settings: further settings of W&B itself, which take precedence over the defaults here.
    """
    import wandb

    defaults = {"init_timeout": PATIENCE, "silent": True}
    return wandb.init(**arguments, settings=wandb.Settings(**defaults | settings))


def draw_against_epoch(run: Any) -> None:
    """Use the epoch as the x-axis of all curves of a W&B run."""
    run.define_metric("epoch", hidden=True)
    run.define_metric("*", step_metric="epoch")


def log_epoch(run: Any, epoch: int, values: Values) -> None:
    """Log the values of an epoch to a W&B run, unless they were logged before it was resumed."""
    if epoch >= run.starting_step:
        run.log({"epoch": epoch, **finite(values)}, step=epoch)


def end(run: Any, summary: Mapping[str, object] | None) -> None:
    """End a W&B run; without a summary it is marked as failed."""
    if summary:
        run.summary.update(summary)
    run.finish(exit_code=0 if summary else 1)


class Logger:
    """A logger with one W&B run per run, in the group of the experiment. It is resumed under the same id."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def start(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)

        # The process must find this package, wherever the run was started.
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,  # Ctrl-C reaches only the run, which then ends the mirror
        )

        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()
        self._send(**run_arguments(self.settings, run.experiment, run.name, run.settings, run.folder))

    def log(self, epoch: int, values: Values) -> None:
        self._send(epoch=epoch, values=values)

    def finish(self, summary: Mapping[str, object] | None) -> None:
        deadline = time.monotonic() + PATIENCE
        self._send(finish=summary)
        self.lines.put(None)

        try:
            code = self.process.wait(deadline - time.monotonic())
            reason = None if code in (0, SAID) else f"its process ended with code {code}"
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            reason = f"no answer in {PATIENCE:g} seconds"
        if reason:
            MESSAGES.warning(f"{FAILED}: {reason}")

    def _send(self, **line: Any) -> None:
        self.lines.put(json.dumps(line) + "\n")

    def _write(self) -> None:
        """Write the lines to the process, in a thread: the pipe may be full, and the run must not wait for it."""
        try:
            with self.process.stdin as pipe:
                while (line := self.lines.get()) is not None:
                    pipe.write(line)
                    pipe.flush()
        except OSError:  # the process has ended, and has printed the reason
            pass


def receive(lines: "queue.SimpleQueue[str | None]") -> None:
    """Read lines from the standard input; some seconds after the last one, end this process, even if W&B hangs."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    time.sleep(2 * PATIENCE)
    os._exit(SAID)


def main() -> None:
    """Mirror a run from the standard input; if the input ends without a summary, the run has failed."""
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
    except BaseException as error:  # no error matters to the run, whose own files are complete
        print(f"{FAILED}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(SAID)  # skips W&B's own shutdown, which may wait for its server
