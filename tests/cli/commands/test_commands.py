"""The commands: which words name one, and what each needs for its help."""

import os
import subprocess
import sys

import pytest

from sam_bench.cli.commands import COMMANDS, is_command
from tests.conftest import ROOT, everything_below

SLOW = {"torch", "pandas", "scipy", "matplotlib", "wandb"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("study", True),
        ("stduy", True),
        ("seed=1", False),
        ("-m", False),
        ("--help", False),
        ("~seed", False),
        ("", False),
    ],
)
def test_a_word_without_equals_or_dash_is_a_command(word, expected):
    assert is_command(word) == expected


def test_help_of_commands_imports_nothing_slow(tmp_path):
    program = f"""
import sys
from sam_bench.cli.main import main
for name in {COMMANDS}:
    sys.argv = ["sam_bench", name, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
    print(name, "imports", *sorted(sys.modules.keys() & {SLOW}))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: sam-bench {name} [-h]" in done.stdout
        assert f"\n{name} imports\n" in done.stdout
    assert everything_below(tmp_path) == []


def test_help_of_the_package_names_all_commands(command):
    code, out, _ = command("--help")
    assert code == 0
    assert f"Commands, each with its own --help: {', '.join(COMMANDS)}:" in out
