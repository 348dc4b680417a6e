"""Tuning: equal trials for all, the same ones after an interruption, nothing of the test set, nobody's file lost."""

import json
import os
import signal
import threading
import time

import pandas as pd
import pytest
import yaml

from sam_bench.cli import main as cli_main
from sam_bench.cli import parallel, tuning
from sam_bench.cli.commands import study, tune
from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.search_space import search_space
from sam_bench.cli.tuned_files import Search, check_replaceable, searches, tuned_file
from sam_bench.data import synthetic
from sam_bench.data.images import Images
from sam_bench.errors import StateError
from sam_bench.report.tuning import Trial
from tests.conftest import ROOT, everything_below

TINY = ["data.train_subset=20", "trainer.batch_size=10", "trainer.epochs=1", "schedule.warmup_epochs=0"]
TINY += ["trainer.device=cpu"]


@pytest.fixture
def in_this_process(monkeypatch):
    """Trials one after another, in this process."""

    def run(self, commands, ended=lambda number, code: None):
        for number, command in enumerate(commands):
            monkeypatch.setattr("sys.argv", command[1:])
            cli_main.main()
            ended(number, 0)

    monkeypatch.setattr(parallel.Programs, "run", run)


def tuned(*arguments: str, methods: str = "sgd,sam") -> None:
    tune.main(["--experiment", "smoke", "--methods", methods, "--config-dir", ".", *arguments, *TINY])


def runs(folder) -> dict[str, float]:
    """Errors of the finished runs."""
    records = [json.loads(path.read_text()) for path in (folder / "results/smoke/records").glob("*.json")]
    return {record["run_id"]: record["test_error"] for record in records}


def test_every_method_has_as_many_trials_and_gets_its_best_values(forked, folder, capsys):
    tuned("--trials", "3", "--jobs", "2")
    records = [json.loads(path.read_text()) for path in (folder / "results/smoke/records").glob("*.json")]
    assert sorted(record["method"] for record in records) == ["sam"] * 3 + ["sgd"] * 3
    assert {record["config"]["data"]["split"] for record in records} == {"val"}
    for method in ("sgd", "sam"):
        text = (folder / f"tuned/smoke_{method}.yaml").read_text()
        assert text.splitlines()[:2] == ["# @package _global_", f"# {Search(3, ' '.join(TINY)).header()}"]
        least = min(record["test_error"] for record in records if record["method"] == method)
        assert f"#   {least:.2f} %  optimizer.base.lr=" in text.splitlines()[2]
    report = (folder / "tuned/smoke_tuning.md").read_text()
    assert report in capsys.readouterr().out
    assert len((folder / "tuned/smoke_tuning.csv").read_text().splitlines()) == 7


def test_the_radius_may_be_tuned_alone(forked, folder):
    tuned("--trials", "3", "--jobs", "2", "--only", "optimizer.rho", methods="sam,msam")
    records = [json.loads(path.read_text()) for path in (folder / "results/smoke/records").glob("*.json")]
    tried = {(record["method"], record["config"]["optimizer"]["rho"]) for record in records}
    assert len(records) == len(tried) == 6
    assert {record["config"]["optimizer"]["base"]["lr"] for record in records} == {0.1}
    lines = (folder / "tuned/smoke_sam.yaml").read_text().splitlines()
    assert "the best of 3 trials of optimizer.rho alone with" in lines[1]
    assert lines[5:-1] == ["optimizer:"] and lines[-1].startswith("  rho: ")
    with pytest.raises(SystemExit, match=r"has the best of 3 trials of optimizer\.rho alone"):
        tuned("--trials", "3")


def test_the_report_of_another_protocol_does_not_replace_the_presets(in_this_process, folder, monkeypatch):
    monkeypatch.setattr(tuning, "CONF", folder / "conf")
    search = ["--experiment", "smoke", "--methods", "sgd", "--trials", "1", "trainer.device=cpu"]
    tune.main(search)
    usual = (folder / "results/smoke/tuning.md").read_text()
    (folder / "longer").mkdir()
    tune.main([*search, "trainer.epochs=3", "--config-dir", "longer"])
    assert (folder / "results/smoke/tuning.md").read_text() == usual
    longer = (folder / "longer/tuned/smoke_tuning.md").read_text()
    assert "All with trainer.device=cpu trainer.epochs=3." in longer and longer != usual
    assert everything_below(folder / "longer/tuned") == ["smoke_sgd.yaml", "smoke_tuning.csv", "smoke_tuning.md"]


def test_runs_of_the_preset_take_the_values_unless_told_otherwise(forked, folder, command):
    tuned("--trials", "3")
    (folder / "experiment").mkdir()
    (folder / "experiment/mine.yaml").write_text("# @package _global_\ndefaults: [smoke]\n")
    (folder / "tuned/smoke_sam.yaml").rename(folder / "tuned/mine_sam.yaml")
    shown = ["--config-dir", ".", "--cfg", "job", "--package", "optimizer", "experiment=mine", "optimizer=sam"]
    _, chosen, _ = command(*shown)
    _, usual, _ = command(*shown, "~tuned")
    assert "lr: 0.1\n" in usual and "rho: 0.05\n" in usual
    for line in (folder / "tuned/mine_sam.yaml").read_text().splitlines():
        if not line.startswith("#") and not line.endswith(":"):
            assert line.strip() in chosen


STUDY = """
title: mine
experiment: short
seeds: [0, 1]
baselines: [SAM]
reference: SAM
planned: [[HalfSAM, SAM]]
note: ""
rows:
  SAM: optimizer=sam
  HalfSAM: plugin=half_sam.py optimizer=half_sam
"""
METHOD = """
from sam_bench import SAM
from sam_bench.plugins import plugin

class HalfSAM(SAM):
    pass

HALF_SAM = plugin(HalfSAM, "half_sam", title="HalfSAM", summary="half of it", paper="mine")
"""


def test_a_method_a_preset_and_a_study_of_ones_own_are_tuned_and_compared(forked, folder, plugins_for_now):
    for name, text in {
        "half_sam.py": METHOD,
        "mine/experiment/short.yaml": "# @package _global_\ndefaults: [smoke]\ntrainer: {epochs: 1}\n",
        "mine/tune.yaml": "half_sam: {optimizer.rho: [0.01, 0.1], optimizer.base.weight_decay: null}\n",
        "mine/study/mine.yaml": STUDY,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    search = ["--config-dir", "mine", "--experiment", "short", "--methods", "half_sam,sam", "--trials", "2", *TINY]
    tune.main([*search, "plugin=half_sam.py"])
    assert everything_below(folder / "mine/tuned") == [
        "short_half_sam.yaml", "short_sam.yaml", "short_tuning.csv", "short_tuning.md"
    ]  # fmt: skip
    chosen = (folder / "mine/tuned/short_half_sam.yaml").read_text()
    assert f"the best of 2 trials with {' '.join(TINY)}, by" in chosen and "weight_decay" not in chosen
    assert "## HalfSAM" in (folder / "mine/tuned/short_tuning.md").read_text()
    study.main(["mine", "--config-dir", "mine", *TINY])
    table = pd.read_csv(folder / "results/short/table.csv")
    assert list(table["row"]) == ["SAM", "HalfSAM"]
    radii = [yaml.safe_load((folder / f"mine/tuned/short_{name}.yaml").read_text())["optimizer"]["rho"]
             for name in ("sam", "half_sam")]  # fmt: skip
    assert list(table["rho"]) == radii


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (None, "half_sam has no search ranges: write tune.yaml in a folder of your own"),
        ("half_sam: [optimizer.rho]", "must have lines such as sam: {optimizer.rho: [least, greatest]}"),
        ("half_sam: [0.1", "not valid YAML"),
        ("half_sam: {optimizer.rho: 0.1}", "optimizer.rho: 0.1 of half_sam in tune.yaml is not a range"),
    ],
)
def test_a_method_of_ones_own_needs_ranges(folder, plugins_for_now, ranges, said):
    (folder / "half_sam.py").write_text(METHOD)
    if ranges is not None:
        (folder / "tune.yaml").write_text(ranges)
    search = ["--config-dir", ".", "--experiment", "smoke", "--methods", "half_sam", "plugin=half_sam.py"]
    with pytest.raises(SystemExit) as ended:
        tune.main(search)
    assert said in str(ended.value)
    assert not (folder / "runs").exists()


def test_a_search_that_was_ended_goes_on_to_what_it_would_have_found(forked, folder, capfd):
    def end_after_the_first() -> None:
        until = time.monotonic() + 60
        while not list((folder / "results").rglob("records/*.json")) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end_after_the_first)
    ending.start()
    with pytest.raises(SystemExit) as ended:
        tuned("--trials", "4", "--jobs", "1")
    ending.join()
    assert ended.value.code == cli_main.EXIT_RESUMABLE
    assert 1 <= len(runs(folder)) < 8
    assert "nothing is chosen" in capfd.readouterr().err and not (folder / "tuned").exists()
    first = runs(folder)
    tuned("--trials", "4", "--jobs", "2")
    assert f"8 runs, {len(first)} of them done" in capfd.readouterr().out
    both = runs(folder)
    assert len(both) == 8 and first.items() <= both.items()
    (folder / "results").rename(folder / "before")
    (folder / "runs").rename(folder / "runs_before")
    tuned("--trials", "4", "--jobs", "2")
    assert runs(folder) == both


def test_nothing_of_the_test_set_is_read(in_this_process, folder, monkeypatch):
    readings = []

    class Watched(Images):
        def __getattribute__(self, name):
            readings.append(name)
            return super().__getattribute__(name)

    load = synthetic.load

    def watched(folder=None):
        train, test = load(folder)
        return train, Watched(test.pixels, test.labels)

    monkeypatch.setattr(synthetic, "load", watched)
    tuned("--trials", "2")
    assert len(runs(folder)) == 4 and readings == []
    monkeypatch.setattr("sys.argv", ["sam_bench", "experiment=smoke", *TINY, "trainer.progress=none"])
    cli_main.main()
    assert readings  # by a run that is measured on it


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "smok"], "did you mean smoke"),
        (["--experiment", "smoke", "optimizer.rh=1"], "optimizer.rh"),
        (["--experiment", "smoke", "--methods", "sam", "trainer.epochs=0"], "trainer.epochs=0"),
        (["--experiment", "smoke", "data.mixup=0.2"], "changes the protocol of smoke"),
        (["--experiment", "smoke", "--only", "optimizer.rho"], "sgd has none of these. It has optimizer.base.lr"),
        (
            ["--experiment", "smoke", "--only", "optimizer.rho,optimizer.rh"],
            "optimizer.rh — did you mean optimizer.rho",
        ),
        (
            ["--experiment", "smoke", "--config-dir", ".", "optimizer.base.lr=0.3"],
            "optimizer.base.lr cannot be set in tuning",
        ),
        (["--experiment", "smoke", "data.split=test", "--config-dir", "."], "data.split cannot be set in tuning"),
        (
            ["--experiment", "smoke", "optimizer/base=adam", "--config-dir", "."],
            "optimizer/base cannot be set in tuning",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(folder, arguments, said):
    with pytest.raises(SystemExit) as ended:
        tune.main(arguments)
    assert said in str(ended.value)
    assert everything_below(folder) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--experiment smoke --methods saam", "did you mean sam"),
        ("--experiment smoke --trials 0", "less than 1"),
        ("--methods sam", "--experiment"),
        ("--experiment smoke --config-dir mine", "mine is not a folder"),
    ],
)
def test_options_are_refused_in_so_many_words(refused, arguments, said):
    refused(tune.main, arguments, said)


def test_a_file_that_somebody_wrote_stays(folder):
    (folder / "tuned").mkdir()
    mine = folder / "tuned/smoke_sam.yaml"
    mine.write_text("# @package optimizer\nrho: 0.3\n")
    with pytest.raises(SystemExit, match="was not written by tuning"):
        tuned()
    assert mine.read_text() == "# @package optimizer\nrho: 0.3\n"
    assert everything_below(folder) == ["tuned", "tuned/smoke_sam.yaml"]


@pytest.mark.parametrize(
    ("trials", "overrides", "only", "allowed"),
    [
        (3, "a=1", "b,c", True),
        (4, "a=1", "b,c", True),
        (2, "a=1", "b,c", False),
        (3, "", "b,c", False),
        (3, "a=1", "", False),
    ],
)
def test_values_of_another_search_or_a_larger_one_stay(tmp_path, trials, overrides, only, allowed):
    path = tmp_path / "smoke_sam.yaml"
    path.write_text(f"# @package _global_\n# {Search(3, 'a=1', 'b,c').header()}\n")
    earlier = searches(tmp_path, "smoke")
    assert earlier == {"sam": Search(3, "a=1", "b,c")}
    if allowed:
        check_replaceable(path, earlier["sam"], Search(trials, overrides, only))
    else:
        with pytest.raises(StateError, match="has the best of 3 trials of b,c alone with a=1"):
            check_replaceable(path, earlier["sam"], Search(trials, overrides, only))


def test_methods_tuned_one_by_one_are_reported_together_if_their_trials_are_equally_many(forked, folder):
    tuned("--trials", "2", methods="sgd")
    tuned("--trials", "2", methods="sam")
    report = (folder / "tuned/smoke_tuning.md").read_text()
    assert "## SGD" in report and "## SAM" in report
    tuned("--trials", "3", methods="sam")
    report = (folder / "tuned/smoke_tuning.md").read_text()
    assert "## SGD" not in report and "SGD's values are the best of 2 trials" in report


@pytest.mark.parametrize(
    "table", sorted((ROOT / "results/measured").rglob("tuning.csv")), ids=lambda path: path.parent.name
)
def test_committed_values_are_the_best_of_the_committed_trials(table):
    frame = pd.read_csv(table)
    counts = frame.groupby("method").size()
    assert counts.nunique() == 1
    only = "" if "optimizer.base.lr" in frame else "optimizer.rho"
    for method, rows in frame.groupby("method"):
        trials = [
            Trial(
                method,
                {key: row[key] for key in search_space(method) if key == (only or key)},
                json.loads((table.parent / "records" / f"{row['run_id']}.json").read_text()),
            )
            for _, row in rows.iterrows()
        ]
        assert [trial.record["test_error"] for trial in trials] == list(rows["test_error"])
        assert {trial.record["config"]["data"]["split"] for trial in trials} == {"val"}
        values = CONF / "tuned" / f"{table.parent.name}_{method}.yaml"
        assert values.read_text() == tuned_file(trials, Search(len(trials), "", only))
