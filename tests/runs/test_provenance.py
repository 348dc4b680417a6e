"""Tests of the commit that a record names."""

import subprocess

import pytest

from sam_bench.runs.provenance import git_commit


def test_commit_without_git_is_from_environment(monkeypatch, tmp_path):
    inside_checkout = git_commit()
    monkeypatch.setenv("SAM_BENCH_COMMIT", "abc")
    assert git_commit() == (inside_checkout or "abc")
    monkeypatch.setenv("PATH", str(tmp_path))  # so that no git is found
    assert git_commit() == "abc"


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"])
def test_commit_ignores_git_variables(tmp_path, monkeypatch, variable):
    own_commit = git_commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    place = {"GIT_INDEX_FILE": "index", "GIT_OBJECT_DIRECTORY": "objects"}.get(variable, "")
    monkeypatch.setenv(variable, str(tmp_path / ".git" / place))
    assert git_commit() == own_commit
