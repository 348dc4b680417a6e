"""A stand-in for the package wandb and its server, which keeps what it is sent in memory."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Server:
    """A server with the runs that it was sent, by path: "[entity/]project/id". In offline mode, files are created.

    Attributes:
        runs: each run's state, its history as pairs of step and values, and its summary.
        fails: function of a call ("init", "log" or "finish") and a run's id that returns True if the call fails.
        begun: number of runs that were begun, online or offline.
        waits: seconds of each wait for the server.
    """

    def __init__(self):
        self.runs: dict[str, dict[str, Any]] = {}
        self.fails: Callable[[str, str], bool] = lambda call, id: False
        self.begun = 0
        self.waits: list[float] = []

    def package(self) -> types.ModuleType:
        """Return a module with the parts of wandb that a sync uses."""
        wandb = types.ModuleType("wandb")
        wandb.init = self.init
        wandb.Settings = lambda **options: None
        wandb.Api = lambda timeout: types.SimpleNamespace(run=self.find)
        wandb.Table = lambda columns, data: (columns, data)
        wandb.Image = str
        return wandb

    def init(self, settings, mode, project, id, entity, dir, **options) -> types.SimpleNamespace:
        """Begin a run, or go on with the one of this path, as `wandb.init` does."""
        self.check("init", id)
        self.begun += 1
        online = mode == "online"
        path = "/".join(filter(None, (entity, project, id)))
        content = self.runs.setdefault(path, {"history": []}) if online else {"history": []}
        content |= {"state": "running", "summary": {}}

        file = Path("run.wandb")
        if not online:
            file = Path(dir, "wandb", f"offline-run-{self.begun}-{id}", f"run-{id}.wandb")
            file.parent.mkdir()
            file.touch()

        def log(values, step=None):
            self.check("log", id)
            content["history"].append((step, values))
            content["summary"].update(values)

        def finish(exit_code):
            self.check("finish", id)
            content["state"] = "finished" if exit_code == 0 else "failed"

        return types.SimpleNamespace(
            dir=f"{dir}/wandb/media",
            settings=types.SimpleNamespace(sync_file=str(file)),
            starting_step=max((step for step, _ in content["history"]), default=-1) + 1,
            summary=content["summary"],
            define_metric=lambda *arguments, **options: None,
            save=lambda *arguments, **options: None,
            log=log,
            finish=finish,
        )

    def check(self, call: str, id: str) -> None:
        """Let a call fail if `fails` says so.

        Raises:
            ConnectionError: the call fails.
        """
        if self.fails(call, id):
            raise ConnectionError("the server says no\nand much more")

    def find(self, path: str) -> types.SimpleNamespace:
        """Return the run of this path, as `wandb.Api().run` does.

        Raises:
            ValueError: the server has no such run.
        """
        if path not in self.runs:
            raise ValueError(f"Could not find run {path}")
        return types.SimpleNamespace(**self.runs[path])
