import sys

import pytest

from sam_bench.cli import parallel
from tests.forked import Forked, command_line


@pytest.fixture
def forked(folder, monkeypatch):
    """Runs in processes that need not import everything first; returns their command lines as they begin."""
    begun = []

    def popen(arguments: list[str], env: dict[str, str]) -> Forked:
        assert arguments[:3] == [sys.executable, "-m", "sam_bench"]
        begun.append(arguments[3:])
        return Forked(command_line, *arguments[3:], cwd=folder, environment=env)

    monkeypatch.setattr(parallel.subprocess, "Popen", popen)
    return begun
