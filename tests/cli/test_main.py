"""Tests of single command lines: what Hydra shows, runs and their repetition, and the user's own folders."""

import pytest

from sam_bench.cli.commands import COMMANDS
from tests.conftest import TINY, everything_below


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        (["--cfg", "job", "optimizer=gsam"], "alpha: 0.4"),
        (["--help"], "gsam"),
        (["--help"], f"Commands, each with its own --help: {', '.join(COMMANDS)}"),
    ],
)
def test_flag_of_hydra_starts_no_run(command, folder, arguments, content):
    code, out, _ = command(*arguments)
    assert code == 0
    assert content in out
    assert everything_below(folder) == []


def test_finished_run_is_not_repeated(command, folder, small_synthetic, records):
    arguments = [*TINY, "experiment=smoke", "optimizer=gsam", "trainer.progress=plain"]
    code, out, _ = command(*arguments)
    assert code == 0
    assert "epoch 1/1" in out

    code, out, _ = command(*arguments)
    assert code == 0
    assert "finished before" in out
    assert len(records("smoke")) == 1
    assert not [name for name in everything_below(folder) if ".hydra" in name]


def test_home_folder_is_expanded(command, folder, small_synthetic, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    code, _, error = command("-m", *TINY, "model=resnet8", "paths.runs='~/runs'")

    assert (code, error) == (0, "")
    assert not (folder / "~").exists()
    assert sorted(path.name for path in (folder / "home" / "runs").iterdir()) == ["default", "sweeps"]


def test_config_dir_has_own_presets(command, folder, small_synthetic, records):
    (folder / "mine" / "experiment").mkdir(parents=True)
    (folder / "mine" / "experiment" / "my_study.yaml").write_text("# @package _global_\nseed: 7\n")
    code, _, error = command("--config-dir", "mine", *TINY, "model=resnet8", "experiment=my_study")

    assert (code, error) == (0, "")
    assert [record["seed"] for record in records("my_study").values()] == [7]
