"""Tests of disks that are full, failing or read-only during a run."""

import errno
import os
import resource
import shutil

import pytest

from sam_bench.cli import main
from sam_bench.runs.checkpoint import Checkpoints
from tests.conftest import everything_below
from tests.runs.faults import COMMAND, fail_fsync


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_disk_error_keeps_old_checkpoints(command, folder, small_synthetic, records, monkeypatch, number):
    with monkeypatch.context() as patch:
        fail_fsync(patch, number, after=4)
        code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert os.strerror(number) in error

    names = [name.rpartition("/")[2] for name in everything_below(folder)]
    kept = [name[:23] for name in names if "checkpoint" in name]
    assert kept == ["checkpoint-00000-000001", "checkpoint-00000-000002"]
    assert not [name for name in names if name.startswith(".")]  # no partly written file

    code, output, _ = command(*COMMAND)
    assert code == 0
    assert "continues from epoch 0, step 2" in output
    assert len(records("smoke")) == 1


def test_file_size_limit_is_one_error_line(command, folder, small_synthetic):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        code, _, error = command(*COMMAND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert code == main.EXIT_RUN
    assert len(error.strip().splitlines()) == 1
    assert os.strerror(errno.EFBIG) in error
    assert [name for name in everything_below(folder) if "checkpoint" in name] == []


def test_lost_folder_is_one_error_line(command, folder, small_synthetic, monkeypatch):
    save = Checkpoints.save

    def save_then_replace_folder(self, *arguments):
        path = save(self, *arguments)
        if len(list(self.folder.glob("*.pt"))) == 2:
            shutil.move(self.folder, self.folder.with_name("kept"))
            self.folder.write_text("a file where the folder was")
        return path

    monkeypatch.setattr(Checkpoints, "save", save_then_replace_folder)
    code, _, error = command(*COMMAND, "trainer.checkpoint_minutes=1e-9")

    assert code == main.EXIT_RUN
    assert len(error.splitlines()) == 1
    assert "cannot be written" in error
    assert len(list((folder / "runs" / "smoke" / "kept").glob("*.pt"))) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder_is_refused(command, folder, small_synthetic):
    (folder / "runs").mkdir(mode=0o555)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_CONFIG
    assert "no file can be created in" in error
