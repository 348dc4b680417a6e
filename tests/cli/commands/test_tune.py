"""Tests of the command `tune`."""

import re

import pytest

from sam_bench.cli import main as cli_main
from sam_bench.cli import parallel, tuning
from sam_bench.cli.commands import tune
from sam_bench.cli.tuned_files import Search
from sam_bench.data import synthetic
from sam_bench.data.images import Images
from tests.cli.commands.conftest import TWO_STEPS, has_record
from tests.cli.conftest import sigterm_when
from tests.conftest import everything_below

SMOKE = ["--experiment", "smoke"]


@pytest.fixture
def trials_in_this_process(monkeypatch):
    """Run the trials one after another in this process."""

    def run(self, programs, ended=lambda number, code: None):
        for number, arguments in enumerate(programs):
            monkeypatch.setattr("sys.argv", arguments[1:])
            cli_main.main()
            ended(number, 0)

    monkeypatch.setattr(parallel.Programs, "run", run)


def tune_smoke(*arguments: str, methods: str = "sgd,sam") -> None:
    """Tune methods under the preset smoke, with trials of two steps; the tuned values go to the folder `tuned`."""
    tune.main([*SMOKE, "--methods", methods, "--config-dir", ".", *arguments, *TWO_STEPS])


def errors_of(records: dict[str, dict]) -> dict[str, float]:
    """Return the test error of each run."""
    return {run_id: record["test_error"] for run_id, record in records.items()}


# Trials and their best values


def test_methods_have_equal_trials_and_best_values(forked, folder, records, capsys):
    tune_smoke("--trials", "3", "--jobs", "2")
    trials = records("smoke").values()
    assert sorted(record["method"] for record in trials) == ["sam"] * 3 + ["sgd"] * 3
    assert {record["config"]["data"]["split"] for record in trials} == {"val"}

    # The values are those of the lowest error, which is the first in the list of trials.
    for method in ("sgd", "sam"):
        package, header, first_trial, *_ = (folder / f"tuned/smoke_{method}.yaml").read_text().splitlines()
        assert (package, header) == ("# @package _global_", f"# {Search(3, ' '.join(TWO_STEPS)).header()}")
        lowest = min(record["test_error"] for record in trials if record["method"] == method)
        assert first_trial.startswith(f"#   {lowest:.2f} %  optimizer.base.lr=")

    assert (folder / "tuned/smoke_tuning.md").read_text() in capsys.readouterr().out
    assert len((folder / "tuned/smoke_tuning.csv").read_text().splitlines()) == 7


def test_only_tunes_one_setting(forked, folder, records):
    tune_smoke("--trials", "3", "--jobs", "2", "--only", "optimizer.rho", methods="sam,msam")
    trials = [(record["method"], record["config"]["optimizer"]) for record in records("smoke").values()]
    assert len(trials) == len({(method, settings["rho"]) for method, settings in trials}) == 6
    assert {settings["base"]["lr"] for _, settings in trials} == {0.1}

    lines = (folder / "tuned/smoke_sam.yaml").read_text().splitlines()
    assert "the best of 3 trials of optimizer.rho alone with" in lines[1]
    assert lines[5:-1] == ["optimizer:"]
    assert lines[-1].startswith("  rho: ")

    with pytest.raises(SystemExit, match=r"has the best of 3 trials of optimizer\.rho alone"):
        tune_smoke("--trials", "3")


def test_trials_do_not_read_the_test_set(trials_in_this_process, folder, records, monkeypatch):
    readings = []

    class WatchedImages(Images):
        def __getattribute__(self, name):
            readings.append(name)
            return super().__getattribute__(name)

    load = synthetic.load

    def load_watched(folder=None):
        train, test = load(folder)
        return train, WatchedImages(test.pixels, test.labels)

    monkeypatch.setattr(synthetic, "load", load_watched)
    tune_smoke("--trials", "2")
    assert len(records("smoke")) == 4
    assert readings == []

    # A run that is measured on the test set does read it.
    monkeypatch.setattr("sys.argv", ["sam_bench", "experiment=smoke", *TWO_STEPS, "trainer.progress=none"])
    cli_main.main()
    assert readings


def test_interrupted_search_continues_to_same_trials(forked, folder, records, capfd):
    with sigterm_when(lambda: has_record(folder)), pytest.raises(SystemExit) as ended:
        tune_smoke("--trials", "4", "--jobs", "1")
    assert ended.value.code == cli_main.EXIT_RESUMABLE
    first = errors_of(records("smoke"))
    assert 1 <= len(first) < 8
    assert "nothing is chosen" in capfd.readouterr().err
    assert not (folder / "tuned").exists()

    tune_smoke("--trials", "4", "--jobs", "2")
    assert f"8 runs, {len(first)} of them done" in capfd.readouterr().out
    continued = errors_of(records("smoke"))
    assert len(continued) == 8
    assert first.items() <= continued.items()

    # A search that was not interrupted has the same trials.
    (folder / "results").rename(folder / "results_before")
    (folder / "runs").rename(folder / "runs_before")
    tune_smoke("--trials", "4", "--jobs", "2")
    assert errors_of(records("smoke")) == continued


# The report


def test_report_has_methods_of_equal_searches(forked, folder):
    tune_smoke("--trials", "2", methods="sgd")
    tune_smoke("--trials", "2", methods="sam")
    report = (folder / "tuned/smoke_tuning.md").read_text()
    assert "## SGD" in report
    assert "## SAM" in report

    tune_smoke("--trials", "3", methods="sam")
    report = (folder / "tuned/smoke_tuning.md").read_text()
    assert "## SGD" not in report
    assert "SGD's values are the best of 2 trials" in report


def test_report_of_changed_protocol_is_separate(trials_in_this_process, folder, monkeypatch):
    monkeypatch.setattr(tuning, "CONF", folder / "conf")
    arguments = [*SMOKE, "--methods", "sgd", "--trials", "1", "trainer.device=cpu"]
    tune.main(arguments)
    of_preset = (folder / "results/smoke/tuning.md").read_text()

    (folder / "longer").mkdir()
    tune.main([*arguments, "trainer.epochs=3", "--config-dir", "longer"])
    of_longer = (folder / "longer/tuned/smoke_tuning.md").read_text()
    assert (folder / "results/smoke/tuning.md").read_text() == of_preset != of_longer
    assert "All with trainer.device=cpu trainer.epochs=3." in of_longer
    assert everything_below(folder / "longer/tuned") == ["smoke_sgd.yaml", "smoke_tuning.csv", "smoke_tuning.md"]


# Refusals


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--experiment", "smok"], "did you mean smoke"),
        ([*SMOKE, "optimizer.rh=1"], "optimizer.rh"),
        ([*SMOKE, "--methods", "sam", "trainer.epochs=0"], "trainer.epochs=0"),
        ([*SMOKE, "data.mixup=0.2"], "changes the protocol of smoke"),
        ([*SMOKE, "--only", "optimizer.rho"], "sgd has none of these. It has optimizer.base.lr"),
        ([*SMOKE, "--only", "optimizer.rho,optimizer.rh"], "optimizer.rh — did you mean optimizer.rho"),
        ([*SMOKE, "--config-dir", ".", "optimizer.base.lr=0.3"], "optimizer.base.lr cannot be set in tuning"),
        ([*SMOKE, "--config-dir", ".", "data.split=test"], "data.split cannot be set in tuning"),
        ([*SMOKE, "--config-dir", ".", "optimizer/base=adam"], "optimizer/base cannot be set in tuning"),
    ],
)
def test_invalid_search_is_refused(folder, arguments, reason):
    with pytest.raises(SystemExit, match=re.escape(reason)):
        tune.main(arguments)
    assert everything_below(folder) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--experiment smoke --methods saam", "did you mean sam"),
        ("--experiment smoke --trials 0", "less than 1"),
        ("--methods sam", "--experiment"),
        ("--experiment smoke --config-dir mine", "mine is not a folder"),
    ],
)
def test_wrong_option_is_refused(refused, arguments, reason):
    refused(tune.main, arguments, reason)


def test_file_of_user_is_not_overwritten(folder):
    (folder / "tuned").mkdir()
    path = folder / "tuned/smoke_sam.yaml"
    path.write_text("# @package optimizer\nrho: 0.3\n")
    with pytest.raises(SystemExit, match="was not written by tuning"):
        tune_smoke()
    assert path.read_text() == "# @package optimizer\nrho: 0.3\n"
    assert everything_below(folder) == ["tuned", "tuned/smoke_sam.yaml"]
