"""Finished runs in W&B: what the live logger would have told it, once, and a report of the experiment."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("wandb")

from sam_bench.cli import wandb_sync
from sam_bench.cli.commands import sync as sync_command
from sam_bench.loggers import wandb as wandb_logger
from sam_bench.runs.record import summary_of
from tests.conftest import ROOT, everything_below
from tests.loggers.wandb_files import stored

RECORDS = Path("results/smoke/records")
HISTORY = {"test_error": [80.0, None, 60.0], "train_loss": [2.0, 1.5, 1.0]}
SUMMARY = {"test_error": 60.0, "best_test_error": 60.0, "status": "finished"}


def write_record(name: str, **changes) -> None:
    record = {"schema_version": 1, "run_id": name, "experiment": "smoke", "config": {"seed": 1}, "epochs": 3}
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(record | SUMMARY | {"history": HISTORY} | changes))


def files(pattern: str = "runs/wandb/offline-run-*/*.wandb") -> list[Path]:
    """W&B's files in the order in which they were begun, which is in their names."""
    return sorted(Path().glob(pattern))


def uploads() -> list[Path]:
    """The files that `wandb sync` would upload."""
    return [path for path in files() if not path.with_suffix(".wandb.synced").exists()]


def write_report() -> None:
    folder = RECORDS.parent
    (folder / "figures").mkdir(parents=True)
    (folder / "table.csv").write_text("method,settings,mean\nsgd,,57.5\nsam,rho=1,\n")
    (folder / "table.md").write_text("# smoke\n")
    Image.new("RGB", (4, 5)).save(folder / "figures" / "curves.png")


def patient(command: list[str], **named) -> subprocess.Popen:
    """The mirror's process, where the machine may be busy."""
    program = "from sam_bench.loggers import wandb; wandb.PATIENCE = 600.0; wandb.main()"
    return subprocess.Popen([sys.executable, "-c", program], **named)


def test_w_and_b_keeps_what_the_live_logger_makes_of_a_run_once_and_the_report(tiny_run, folder, monkeypatch, capsys):
    """With W&B itself, whose start takes seconds: so it is one test."""
    monkeypatch.setattr(wandb_logger, "PATIENCE", 600.0)
    monkeypatch.setattr(wandb_logger, "subprocess", types.SimpleNamespace(**vars(subprocess) | {"Popen": patient}))
    settings = ["experiment=smoke", "optimizer=sgd", "trainer.epochs=3", "trainer.eval_every=2"]
    record = tiny_run(*settings, "data.label_noise=0.4", "logger=wandb")
    write_report()
    (live,) = files("runs/smoke/*/wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "sam_bench", "sync", "--experiment", "smoke"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 runs synced, 0 synced before; report synced" in done.stdout
    assert "2 files are not uploaded yet. Upload them: wandb sync runs/wandb" in done.stdout
    of_report, of_run = sorted(uploads(), key=lambda path: "report" not in path.name)

    told = stored(of_run)
    assert told == stored(live) | {"files": []}  # the packages that the live one lists are those it trained with
    assert told["config"] == record["config"]
    assert told["summary"].items() >= summary_of(record).items()
    assert told["metrics"] == {"epoch": ("", True), "*": ("epoch", False)}
    expected = [{"epoch": epoch} for epoch in (1, 2, 3)]
    for name, values in record["history"].items():
        for of_epoch, value in zip(expected, values, strict=True):
            of_epoch |= {} if value is None else {name: value}
    assert told["history"] == list(enumerate(expected, start=1))
    assert ["test_error" in values for values in expected] == [False, True, True]
    assert live.with_suffix(".wandb.synced").exists()  # so that it is not uploaded beside the other

    told = stored(of_report)
    assert (told["id"], told["job_type"], told["group"]) == ("smoke-report", "report", "smoke")
    ((_, panels),) = told["history"]
    assert (panels["table._type"], panels["figures/curves._type"]) == ("table-file", "image-file")
    table = json.loads((of_report.parent / "files" / panels["table.path"]).read_text())
    assert table["columns"] == ["method", "settings", "mean"]
    assert table["data"] == [["sgd", None, 57.5], ["sam", "rho=1", None]]
    assert {"report/table.csv", "report/table.md", "report/figures/curves.png"} <= set(told["files"])
    assert (of_report.parent / "files/report/table.md").read_text() == "# smoke\n"

    before = everything_below(folder)
    sync_command.main(["--experiment", "smoke"])
    assert "0 runs synced, 1 synced before; report unchanged" in capsys.readouterr().out
    assert everything_below(folder) == before


class Server:
    """What the stand-in for W&B has been told, by the paths of runs; in offline mode files are made."""

    def __init__(self):
        self.runs = {}
        self.fails = lambda place, id: False
        self.begun = 0
        self.waits = []

    def init(self, settings, mode, project, id, entity, dir, **named):
        self.fail("init", id)
        self.begun += 1
        path = "/".join(filter(None, (entity, project, id)))
        run = types.SimpleNamespace(dir=f"{dir}/wandb/media", settings=types.SimpleNamespace(sync_file="run.wandb"))
        if mode == "offline":
            file = Path(dir, "wandb", f"offline-run-{self.begun}-{id}", f"run-{id}.wandb")
            file.parent.mkdir()
            file.touch()
            run.settings.sync_file = str(file)
        has = self.runs.setdefault(path, {"history": [], "summary": {}}) if mode == "online" else {"history": []}
        has |= {"state": "running", "summary": {}}
        run.starting_step = max((step for step, _ in has["history"]), default=-1) + 1
        run.summary = has["summary"]
        run.define_metric = lambda *of, **named: None
        run.save = lambda *of, **named: None

        def log(values, step=None):
            self.fail("log", id)
            has["history"].append((step, values))
            run.summary.update(values)

        def finish(exit_code):
            self.fail("finish", id)
            has["state"] = "finished" if exit_code == 0 else "failed"

        run.log = log
        run.finish = finish
        return run

    def fail(self, place, id):
        if self.fails(place, id):
            raise ConnectionError("the server says no\nand much more")

    def find(self, path):
        if path not in self.runs:
            raise ValueError(f"Could not find run {path}")
        return types.SimpleNamespace(**self.runs[path])


@pytest.fixture
def server(folder, monkeypatch):
    server = Server()
    stand_in = types.ModuleType("wandb")
    stand_in.init = server.init
    stand_in.Settings = lambda **named: None
    stand_in.Api = lambda timeout: types.SimpleNamespace(run=server.find)
    stand_in.Table = lambda columns, data: (columns, data)
    stand_in.Image = str
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr(wandb_sync, "CONFIRMATION", 0.0)
    monkeypatch.setattr(wandb_sync.time, "sleep", server.waits.append)
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))  # or the script sets it for the tests that follow
    write_record("a")
    write_record("b")
    return server


def sync(*options: str) -> None:
    sync_command.main(["--experiment", "smoke", *options])


ONLINE = ("--mode", "online")


def refused(capsys, *options: str) -> str:
    """What is said when a sync ends with an error, in one line."""
    with pytest.raises(SystemExit) as ended:
        sync(*options)
    assert str(ended.value).startswith("Error: ")
    assert "\n" not in str(ended.value)
    return str(ended.value)


def test_a_server_that_fails_costs_one_line_and_the_next_sync_goes_on(server, capsys):
    server.fails = lambda place, id: (place, id) == ("log", "smoke-b")
    said = refused(capsys, *ONLINE)
    assert said.startswith("Error: W&B failed: ConnectionError: the server says no; ")
    server.fails = lambda place, id: False
    server.runs["sam_bench/smoke-b"]["history"] = [(1, {"epoch": 1})]  # what had arrived
    sync(*ONLINE)
    assert "1 runs synced, 1 synced before" in capsys.readouterr().out
    for name in "ab":
        run = server.runs[f"sam_bench/smoke-{name}"]
        assert [step for step, _ in run["history"]] == [1, 2, 3]
        assert (run["state"], run["summary"]) == ("finished", SUMMARY | {"epoch": 3, "train_loss": 1.0})
    assert server.begun == 3
    sync(*ONLINE)
    assert server.begun == 3


def test_what_a_server_has_is_not_sent_again_and_what_it_has_otherwise_is_said(server, capsys):
    sync(*ONLINE)
    Path("runs/wandb/synced.json").unlink()
    server.runs["sam_bench/smoke-b"]["summary"]["test_error"] = 61.0
    assert "Error: b: W&B has different content" in refused(capsys, *ONLINE)
    assert "0 runs synced, 1 synced before" in capsys.readouterr().out
    assert server.begun == 2


def test_what_a_server_does_not_confirm_is_not_noted(server, capsys):
    server.find = lambda path: (_ for _ in ()).throw(ValueError("Could not find run"))
    sys.modules["wandb"].Api = lambda timeout: types.SimpleNamespace(run=server.find)
    assert "smoke-a was sent" in refused(capsys, *ONLINE)
    assert not Path("runs/wandb/synced.json").exists()


def test_a_record_that_has_changed_is_said_and_the_others_are_synced(server, capsys):
    sync()
    write_record("a", test_error=59.0)
    write_record("c")
    assert "Error: a: W&B has different content" in refused(capsys)
    assert "1 runs synced, 1 synced before" in capsys.readouterr().out
    assert sorted(path.stem for path in uploads()) == ["run-smoke-a", "run-smoke-b", "run-smoke-c"]
    sync("--project", "anew")
    assert server.begun == 6


def test_the_report_is_synced_again_when_its_files_have_changed(server, capsys):
    write_report()
    sync()
    sync()
    assert server.begun == 3
    RECORDS.with_name("table.md").write_text("# smoke, anew\n")
    sync()
    assert "0 runs synced, 2 synced before; report synced" in capsys.readouterr().out
    assert [path.parent.name for path in uploads()] == [
        f"offline-run-{number}-smoke-{name}" for number, name in ((1, "a"), (2, "b"), (4, "report"))
    ]


def test_what_an_interrupted_sync_has_left_is_not_uploaded(server):
    server.fails = lambda place, id: place == "finish" and id == "smoke-b"
    with pytest.raises(SystemExit):
        sync()
    assert len(uploads()) == 2
    server.fails = lambda place, id: False
    sync()
    assert [path.parent.name for path in uploads()] == ["offline-run-1-smoke-a", "offline-run-3-smoke-b"]


def test_a_run_that_went_to_w_and_b_as_it_trained_is_left_to_an_online_sync(server, capsys):
    mirror = Path("runs/smoke/b/wandb/run-1-smoke-b/run-smoke-b.wandb")
    mirror.parent.mkdir(parents=True)
    mirror.touch()
    sync()
    out = capsys.readouterr().out
    assert "1 runs synced, 0 synced before" in out
    assert "1 runs were sent to W&B during training; --mode online adds what is missing there" in out
    sync(*ONLINE)
    assert sorted(server.runs) == ["sam_bench/smoke-a", "sam_bench/smoke-b"]
    assert uploads() == []  # all of it is there
    sync()
    assert uploads() == []


def test_without_w_and_b_one_line_says_so(server, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "W&B failed: ModuleNotFoundError" in refused(capsys)


def test_without_records_nothing_is_made(folder, capsys):
    assert "there are no records in results/smoke/records; run the experiment first" in refused(capsys)
    assert everything_below(folder) == []


def test_notes_that_are_damaged_are_not_taken_for_none(server, capsys):
    sync()
    Path("runs/wandb/synced.json").write_text("{")
    assert "runs/wandb/synced.json is damaged" in refused(capsys)
    assert server.begun == 2
