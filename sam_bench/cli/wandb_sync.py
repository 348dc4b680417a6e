"""Finished runs, and the tables made from them, as runs in Weights & Biases."""

import glob
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_bench.errors import StateError, UserError, first_line
from sam_bench.loggers.wandb import Settings, begin, draw_against_epoch, end, log_epoch, run_arguments, run_id
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import Record, read_record, summary_of

#: Settings of W&B. No training waits for a sync, so it may take its time to start. The machine, code and output of the
#: sync are not recorded, since they are not those of the training run.
SYNC_SETTINGS = {
    "init_timeout": 90.0,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}

#: Suffixes of the files that are synced from an experiment's folder, besides its figures.
TEXTS = (".csv", ".html", ".md", ".tex")

#: Seconds that the server has to confirm what it was sent.
CONFIRMATION = 30.0


@dataclass(frozen=True)
class Task:
    """A run to be synced to W&B.

    Args:
        name: the run's ID, or "report".
        digest: SHA-256 of the files that it is made from.
        config: its settings in W&B.
        summary: values that W&B's summary has once the run is complete there.
        tell: function that logs everything to a W&B run.
        changes: True if it may be synced again with another digest.
        job_type: W&B's name for its kind, if any.
    """

    experiment: str
    name: str
    digest: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    tell: Callable[[Any], None]
    changes: bool = False
    job_type: str | None = None

    @property
    def id(self) -> str:
        """ID of the run in W&B."""
        return run_id(self.experiment, self.name)


def task_of_record(path: Path) -> Task:
    """Return the task that syncs a finished run, given the path of its record."""
    record = read_record(path)

    def log_record(run: Any) -> None:
        draw_against_epoch(run)
        for epoch, values in enumerate(epochs_of(record), start=1):
            log_epoch(run, epoch, values)
        end(run, summary_of(record))

    summary = summary_of(record) | {"epoch": record["epochs"]}
    return Task(record["experiment"], record["run_id"], digest_of([path]), record["config"], summary, log_record)


def epochs_of(record: Record) -> list[dict[str, float | None]]:
    """Return the measured values of each epoch, in order."""
    history = record["history"]
    return [{name: values[i] for name, values in history.items()} for i in range(record["epochs"])]


def task_of_report(experiment: str, folder: Path) -> Task | None:
    """Return the task that syncs an experiment's tables and figures; None if there are none."""
    texts = [path for path in sorted(folder.glob("*")) if path.suffix in TEXTS]
    figures = [path for path in sorted((folder / "figures").glob("*")) if path.is_file()]
    if not texts + figures:
        return None
    digest = digest_of([*texts, *figures])

    def log_report(run: Any) -> None:
        import pandas as pd
        import wandb

        panels = {}
        for path in (path for path in texts if path.suffix == ".csv"):
            frame = pd.read_csv(path).astype(object)
            rows = frame.where(frame.notna(), None).values.tolist()
            panels[path.stem] = wandb.Table(columns=list(frame.columns), data=rows)
        for path in (path for path in figures if path.suffix == ".png"):
            panels[f"figures/{path.stem}"] = wandb.Image(str(path))

        for path in (*texts, *figures):
            target = Path(run.dir) / "report" / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            run.save(str(target), base_path=run.dir, policy="now")

        if panels:
            run.log(panels)
        end(run, {"sha256": digest})

    return Task(experiment, "report", digest, {}, {"sha256": digest}, log_report, changes=True, job_type="report")


def digest_of(paths: list[Path]) -> str:
    """Return a digest of the names and contents of files."""
    contents = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


class Sync:
    """A sync to W&B that skips what was synced before.

    Args:
        out: folder whose subfolder `wandb` holds W&B's files and the notes on what was synced. The W&B files of runs
            that trained with `logger=wandb` are in `<out>/<experiment>/<run>/wandb`.

    Raises:
        StateError: the notes cannot be read.
    """

    def __init__(self, settings: Settings, out: Path):
        self.settings = settings
        self.out = out
        self.folder = out / "wandb"
        self.notes_path = self.folder / "synced.json"
        self.notes = self._read_notes()
        #: Names of runs that W&B has with different content.
        self.changed: list[str] = []
        #: Names of runs whose W&B files from training were, or may have been, uploaded.
        self.mirrored: list[str] = []

    def __call__(self, task: Task) -> bool:
        """Sync a run, and return True if anything was sent or written.

        Raises:
            StateError: W&B failed.
        """
        note = self.notes.get(self._key(task), {})
        unchanged = note.get("sha256") == task.digest
        online = self.settings.mode == "online"
        if unchanged and note["mode"] in ("online", self.settings.mode):
            return False

        # What cannot be synced is collected, so that the others are synced before it is reported.
        if note and not unchanged and not task.changes:
            self.changed.append(task.name)
            return False
        if not online and not note and self._uploaded_mirrors(task):
            self.mirrored.append(task.name)
            return False

        try:
            server_state = self._server_state(task) if online else None
            if server_state == "other":
                self.changed.append(task.name)
                return False
            file = None if server_state == "whole" else self._write_run(task)
        except UserError:
            raise
        except Exception as error:
            raise StateError(
                f"W&B failed: {first_line(error)}; the runs synced so far are listed in {self.notes_path}. Run the "
                "same command again to sync the others."
            ) from error

        self._mark_others_uploaded(task, but=file)
        self.notes[self._key(task)] = {"sha256": task.digest, "mode": self.settings.mode, "file": file}
        write_atomically(self.notes_path, (json.dumps(self.notes, indent=1) + "\n").encode())
        return server_state != "whole"

    def waiting(self) -> int:
        """Return the number of files that have not been uploaded yet."""
        return sum(not _uploaded_marker(path).exists() for path in self.folder.glob("offline-run-*/*.wandb"))

    def _key(self, task: Task) -> str:
        return "/".join(filter(None, (self.settings.entity, self.settings.project, task.id)))

    def _read_notes(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self.notes_path.read_text(encoding="utf-8")) if self.notes_path.exists() else {}
        except ValueError as error:
            raise StateError(
                f"{self.notes_path} is damaged ({error}): move {self.folder} away to sync everything again. Choose "
                "another --project if some of it was uploaded."
            ) from error

    def _write_run(self, task: Task) -> str | None:
        """Log everything to W&B, and return the file to upload, relative to `folder`; None in online mode.

        Raises:
            TimeoutError: the server did not confirm that it has everything.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder.absolute() / "data"))  # an upload reads it too
        arguments = run_arguments(self.settings, task.experiment, task.name, task.config, self.out)
        run = begin(arguments | {"job_type": task.job_type}, **SYNC_SETTINGS)
        file = Path(run.settings.sync_file)
        task.tell(run)
        if self.settings.mode == "offline":
            return str(file.absolute().relative_to(self.folder.absolute()))

        # The server may take some seconds to show all that it was sent.
        deadline = time.monotonic() + CONFIRMATION
        while self._server_state(task) != "whole":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{task.id} was sent, but not confirmed in {CONFIRMATION:g} seconds")
            time.sleep(1)
        return None

    def _server_state(self, task: Task) -> str:
        """Return how much of a run the server has: "nothing", "part", "whole", or "other" content under its ID."""
        import wandb

        try:
            server_run = wandb.Api(timeout=30).run(self._key(task))
        except Exception as error:
            if "Could not find run" in str(error):
                return "nothing"
            raise
        if server_run.state != "finished":
            return "part"
        if all(_equal(server_run.summary.get(name), value) for name, value in task.summary.items()):
            return "whole"
        return "part" if task.changes else "other"

    def _uploaded_mirrors(self, task: Task) -> list[Path]:
        """Return the run's W&B files from training that were uploaded, or were being uploaded during training."""
        return [
            path
            for path in self._mirrors(task)
            if _uploaded_marker(path).exists() or not path.parent.name.startswith("offline-run-")
        ]

    def _mirrors(self, task: Task) -> list[Path]:
        """Return the W&B files that `logger=wandb` left in the run's folder."""
        folder = self.out / task.experiment / task.name / "wandb"
        return [path for path in folder.glob(f"*/run-{glob.escape(task.id)}.wandb") if not path.parent.is_symlink()]

    def _mark_others_uploaded(self, task: Task, but: str | None) -> None:
        """Mark all other offline files of a run as uploaded, in W&B's way, so that only one file is uploaded.

        The others come from training with `logger=wandb`, from an interrupted sync, or from an earlier report.

        Args:
            but: the file to upload, relative to `folder`; None if the server has everything.
        """
        files_of_others = {note["file"] for key, note in self.notes.items() if key != self._key(task)}
        kept = {self.folder / file for file in (files_of_others | {but}) - {None}}
        synced_files = set(self.folder.glob(f"offline-run-*/run-{glob.escape(task.id)}.wandb"))
        mirrors = {path for path in self._mirrors(task) if path.parent.name.startswith("offline-run-")}
        for path in (synced_files | mirrors) - kept:
            _uploaded_marker(path).touch()


def _uploaded_marker(path: Path) -> Path:
    """Return the path of the file that tells `wandb sync` that this file is uploaded."""
    return path.with_suffix(".wandb.synced")


def _equal(actual: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        return math.isclose(actual, expected, rel_tol=1e-9)
    return actual == expected
