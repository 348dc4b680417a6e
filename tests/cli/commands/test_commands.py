"""Tests of what all commands share: which words name one, and what its help imports."""

import pytest

from sam_bench.cli.commands import COMMANDS, is_command
from tests.cli.conftest import run_python
from tests.conftest import everything_below

#: Modules that take long to import.
SLOW_MODULES = {"torch", "pandas", "scipy", "matplotlib", "wandb"}


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
def test_is_command_accepts_bare_words(word, expected):
    assert is_command(word) == expected


def test_help_imports_no_slow_module(tmp_path):
    program = f"""
import sys
from sam_bench.cli.main import main
for name in {COMMANDS}:
    sys.argv = ["sam_bench", name, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
    print(name, "imports", *sorted(sys.modules.keys() & {SLOW_MODULES}))
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: sam-bench {name} [-h]" in done.stdout
        assert f"\n{name} imports\n" in done.stdout
    assert everything_below(tmp_path) == []
