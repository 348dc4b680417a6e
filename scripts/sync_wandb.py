"""Bring finished runs, and the tables made from them, to Weights & Biases.

python scripts/sync_wandb.py --experiment noisy40 --results results/measured

Each record becomes the W&B run that `logger=wandb` makes of a run that trains: the same id, group, settings, curves and
summary. One more run, the experiment's report, has its tables, figures and texts. What was synced is noted in
`synced.json` beside W&B's files, so that the same command again adds what is new, and nothing twice.
"""

import glob
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_bench.errors import StateError, UserError, first_line
from sam_bench.loggers.wandb import Settings, begin, draw_against_epoch, end, log_epoch, run_arguments, run_id
from sam_bench.runs.files import write_atomically
from sam_bench.runs.lock import RunLock
from sam_bench.runs.record import Record, read_record, summary_of
from scripts.arguments import errors_as_messages, parser

OF_A_SYNC = {
    "init_timeout": 90.0,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings of W&B: no run waits for it, and machine, code and output are not those that the run had."""

TEXTS = (".csv", ".html", ".md", ".tex")
"""What is kept of an experiment's folder beside its figures."""

CONFIRMATION = 30.0
"""Seconds in which the server must have what it was sent."""


@dataclass(frozen=True)
class Task:
    """A run that W&B is to have.

    Args:
        digest: of all that it is made from.
        config: its settings in W&B.
        summary: what W&B has in its summary when it has all of it.
        tell: what tells W&B's run everything.
        changes: whether it may be synced again with another digest.
        job_type: what W&B calls its kind, if anything.
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
        """W&B's id of the run."""
        return run_id(self.experiment, self.name)


def task_of_record(path: Path) -> Task:
    """Return what is to be synced of a finished run."""
    record = read_record(path)

    def tell(run: Any) -> None:
        draw_against_epoch(run)
        for epoch, values in enumerate(epochs_of(record), start=1):
            log_epoch(run, epoch, values)
        end(run, summary_of(record))

    summary = summary_of(record) | {"epoch": record["epochs"]}
    return Task(record["experiment"], record["run_id"], digest_of([path]), record["config"], summary, tell)


def epochs_of(record: Record) -> list[dict[str, float | None]]:
    """Return what was measured in each epoch, in their order."""
    history = record["history"]
    return [{name: values[i] for name, values in history.items()} for i in range(record["epochs"])]


def task_of_report(experiment: str, folder: Path) -> Task | None:
    """Return what is to be synced of an experiment's tables and figures; None where there are none."""
    texts = [path for path in sorted(folder.glob("*")) if path.suffix in TEXTS]
    figures = [path for path in sorted((folder / "figures").glob("*")) if path.is_file()]
    if not texts + figures:
        return None
    digest = digest_of([*texts, *figures])

    def tell(run: Any) -> None:
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
            copy = Path(run.dir) / "report" / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            run.save(str(copy), base_path=run.dir, policy="now")
        if panels:
            run.log(panels)
        end(run, {"sha256": digest})

    return Task(experiment, "report", digest, {}, {"sha256": digest}, tell, changes=True, job_type="report")


def digest_of(paths: list[Path]) -> str:
    """Return a digest of the names and contents of files."""
    contents = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


class Sync:
    """Syncs what was not synced before.

    Args:
        out: the folder in whose folder `wandb` W&B's files are kept, and the notes of what was synced. Below it are
            also, by experiment and run, the W&B files of runs that had `logger=wandb`.

    Raises:
        StateError: the notes cannot be read.
    """

    def __init__(self, settings: Settings, out: Path):
        self.settings = settings
        self.out = out
        self.folder = out / "wandb"
        self.notes_path = self.folder / "synced.json"
        self.notes = self._read_notes()
        self.changed: list[str] = []
        """Names of runs that W&B has with another content."""
        self.mirrored: list[str] = []
        """Names of runs whose own W&B files were, or may have been, uploaded."""

    def __call__(self, task: Task) -> bool:
        """Sync a run, and return whether there was anything to do.

        Raises:
            StateError: W&B failed.
        """
        note = self.notes.get(self._key(task), {})
        same = note.get("sha256") == task.digest
        online = self.settings.mode == "online"
        if same and note["mode"] in ("online", self.settings.mode):
            return False
        if note and not same and not task.changes:
            self.changed.append(task.name)
            return False
        if not online and not note and self._uploaded_mirrors(task):
            self.mirrored.append(task.name)
            return False
        try:
            found = self._on_server(task) if online else None
            if found == "other":
                self.changed.append(task.name)
                return False
            file = None if found == "whole" else self._write(task)
        except UserError:
            raise
        except Exception as error:
            raise StateError(
                f"W&B failed: {first_line(error)}; the runs that are synced are noted in {self.notes_path}, and the "
                "same command goes on from there"
            ) from error
        self._keep_from_upload(task, but=file)
        self.notes[self._key(task)] = {"sha256": task.digest, "mode": self.settings.mode, "file": file}
        write_atomically(self.notes_path, (json.dumps(self.notes, indent=1) + "\n").encode())
        return found != "whole"

    def waiting(self) -> int:
        """Return how many files wait for their upload."""
        return sum(not _marker(path).exists() for path in self.folder.glob("offline-run-*/*.wandb"))

    def _key(self, task: Task) -> str:
        return "/".join(filter(None, (self.settings.entity, self.settings.project, task.id)))

    def _read_notes(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self.notes_path.read_text(encoding="utf-8")) if self.notes_path.exists() else {}
        except ValueError as error:
            raise StateError(
                f"{self.notes_path} is damaged ({error}): move {self.folder} away to sync everything anew, into another"
                " --project if it was uploaded"
            ) from error

    def _write(self, task: Task) -> str | None:
        """Tell W&B everything, and return the file that is to be uploaded, if one is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder.absolute() / "data"))  # which an upload needs too
        arguments = run_arguments(self.settings, task.experiment, task.name, task.config, self.out)
        run = begin(arguments | {"job_type": task.job_type}, **OF_A_SYNC)
        file = Path(run.settings.sync_file)
        task.tell(run)
        if self.settings.mode == "offline":
            return str(file.absolute().relative_to(self.folder.absolute()))
        until = time.monotonic() + CONFIRMATION
        while self._on_server(task) != "whole":
            if time.monotonic() > until:
                raise TimeoutError(f"{task.id} was sent, and in {CONFIRMATION:g} seconds the server had not all of it")
            time.sleep(1)
        return None

    def _on_server(self, task: Task) -> str:
        """Return what the server has of a run: "nothing", a "part", the "whole", or an "other" one under its id."""
        import wandb

        try:
            found = wandb.Api(timeout=30).run(self._key(task))
        except Exception as error:
            if "Could not find run" in str(error):
                return "nothing"
            raise
        if found.state != "finished":
            return "part"
        if all(_equal(found.summary.get(name), value) for name, value in task.summary.items()):
            return "whole"
        return "part" if task.changes else "other"

    def _uploaded_mirrors(self, task: Task) -> list[Path]:
        """Return files of the run's own mirror that were uploaded, or were meant to be as it went on."""
        return [
            path
            for path in self._mirrors(task)
            if _marker(path).exists() or not path.parent.name.startswith("offline-run-")
        ]

    def _mirrors(self, task: Task) -> list[Path]:
        """Return what `logger=wandb` left in the run's own folder."""
        folder = self.out / task.experiment / task.name / "wandb"
        return [path for path in folder.glob(f"*/run-{glob.escape(task.id)}.wandb") if not path.parent.is_symlink()]

    def _keep_from_upload(self, task: Task, but: str | None) -> None:
        """Mark a run's other offline files as W&B marks uploaded ones: their content is in the one that counts.

        These are of the run's own mirror, of a sync that was interrupted, and of a report before it changed.
        """
        of_others = {note["file"] for key, note in self.notes.items() if key != self._key(task)}
        kept = {self.folder / file for file in (of_others | {but}) - {None}}
        own = set(self.folder.glob(f"offline-run-*/run-{glob.escape(task.id)}.wandb"))
        mirrors = {path for path in self._mirrors(task) if path.parent.name.startswith("offline-run-")}
        for path in (own | mirrors) - kept:
            _marker(path).touch()


def _marker(path: Path) -> Path:
    """Return the file whose presence keeps `wandb sync` from uploading another one."""
    return path.with_suffix(".wandb.synced")


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(found, (int, float)):
        return math.isclose(found, value, rel_tol=1e-9)
    return found == value


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--experiment", required=True, help="whose records are synced")
    words.add_argument("--results", default=Path("results"), type=Path, help="folder with a folder for each experiment")
    words.add_argument("--project", default="sam_bench", help="of W&B")
    words.add_argument("--entity", help="user or team of W&B's, else your own")
    words.add_argument("--mode", default="offline", choices=("offline", "online"), help="into files, or to the server")
    words.add_argument("--out", default=Path("runs"), type=Path, help="folder for the folder wandb")
    options = words.parse_args(arguments)
    settings = Settings(mode=options.mode, project=options.project, entity=options.entity)
    folder = options.results / options.experiment
    tasks = [task_of_record(path) for path in sorted((folder / "records").glob("*.json"))]
    if not tasks:
        raise StateError(f"there are no records in {folder / 'records'}; run the experiment first")
    report = task_of_report(options.experiment, folder)
    lock = RunLock(options.out / "wandb" / "sync.lock")
    try:
        sync_all(tasks, report, Sync(settings, options.out))
    finally:
        lock.release()


def sync_all(tasks: list[Task], report: Task | None, sync: Sync) -> None:
    """Sync runs and their report, and say what was done.

    Raises:
        StateError: W&B failed, or has a run with another content.
    """
    synced = 0
    for number, task in enumerate(tasks, start=1):
        if sync(task):
            synced += 1
            print(f"{number}/{len(tasks)}  {task.name}", flush=True)
    before = len(tasks) - synced - len(sync.changed) - len(sync.mirrored)
    told = "there is no report" if report is None else "the report too" if sync(report) else "the report as before"
    print(f"{synced} runs synced, {before} were before; {told}")
    if sync.mirrored:
        print(f"{len(sync.mirrored)} went to W&B as they trained; --mode online completes what is missing there")
    if count := sync.waiting():
        print(f"{count} files wait for their upload: {shlex.join(['wandb', 'sync', str(sync.folder)])}")
    if sync.changed:
        raise StateError(
            f"{', '.join(sync.changed)}: W&B has another content under this id, which stays; was the run repeated? "
            "Choose another --project for the new one"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
