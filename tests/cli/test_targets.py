"""Tests of `_target_`, by which Hydra calls a program: no command line may name one."""

import sys
import types

import pytest

from sam_bench.cli import main
from tests.conftest import everything_below

#: A way from the module of an allowed launcher to any function.
FUNCTION_IN_LAUNCHER = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.logging.os.mkdir"

CANNOT_BE_CALLED = "not a program that Hydra may call"


@pytest.mark.parametrize("sweep_arguments", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("+trainer._target_=payload.run", "Unknown setting"),
        ("+callbacks={_target_: payload.run}", "Unknown setting"),
        ("+data.root={_target_: payload.run}", "data.root"),
        ("hydra.launcher._target_=payload.run", CANNOT_BE_CALLED),
        ("hydra.launcher._target_=hydra_plugins.hydra_joblib_launcher.payload.run", CANNOT_BE_CALLED),
        (f"hydra.launcher._target_={FUNCTION_IN_LAUNCHER}", CANNOT_BE_CALLED),
        ("hydra.sweeper._target_=payload.run", CANNOT_BE_CALLED),
        ("+hydra.callbacks.a._target_=payload.run", CANNOT_BE_CALLED),
        (f"+hydra.callbacks.a._target_={FUNCTION_IN_LAUNCHER}", CANNOT_BE_CALLED),
        ("+hydra.a.b.c._target_=payload.run", CANNOT_BE_CALLED),
    ],
)
def test_target_is_refused_and_not_called(command, folder, monkeypatch, override, reason, sweep_arguments):
    calls = []
    payload = types.ModuleType("payload")
    payload.run = lambda *arguments, **named: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "payload", payload)

    code, _, error = command(*sweep_arguments, override)

    assert code == main.EXIT_CONFIG
    assert error.startswith("Error: ")
    assert reason in error
    assert calls == []
    assert everything_below(folder) == []
