"""Tests of requests to end a run: a signal, a second one, and the time limit."""

import os
import signal
import subprocess
import sys

import pytest

from sam_bench.cli import main
from sam_bench.errors import Interrupted
from sam_bench.runs.record import RunFiles
from sam_bench.runtime.signals import SIGNALS, Interruption
from tests.conftest import ROOT
from tests.runs.faults import COMMAND, SHORT


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_saves_and_exits_resumable(command, folder, small_synthetic, interrupted, number, records):
    interrupted({5}, number)
    code, output, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE == 75
    assert f"{number.name}: " in error
    assert "after 6 of 12 steps" in error
    assert "epoch 2/3" not in output
    assert records("smoke") == {}

    code, output, _ = command(*COMMAND)
    assert code == 0
    assert "continues from epoch 1, step 2" in output
    assert len(records("smoke")) == 1


def test_earlier_handler_is_called_after_saving(tiny_run, folder, interrupted):
    calls = []

    def scheduler_handler(number, frame):
        calls.append((number, sorted(path.name[:10] for path in folder.rglob("*.pt"))))

    earlier = signal.signal(signal.SIGUSR2, scheduler_handler)
    try:
        interrupted({5}, signal.SIGUSR2)
        with pytest.raises(Interrupted):
            tiny_run(*SHORT)
        assert calls == [(signal.SIGUSR2, ["checkpoint"])]
        assert signal.getsignal(signal.SIGUSR2) is scheduler_handler
    finally:
        signal.signal(signal.SIGUSR2, earlier)


#: A program that receives two signals and prints the first one's name, unless the second one ends it.
TWO_SIGNALS = """
import os, signal, time
from sam_bench.runtime.signals import Interruption
with Interruption(None) as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({pause})
    os.kill(os.getpid(), {second})
    print(interruption.reason)
"""


@pytest.mark.parametrize(("pause", "ends"), [(1.1, True), (0.0, False)], ids=["later", "echo of the first"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_process_unless_echo(pause, ends, second):
    program = TWO_SIGNALS.format(pause=pause, second=int(second))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == ((-second, "") if ends else (0, "SIGTERM\n"))


def test_handlers_without_signal_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption(None) as interruption:
        assert interruption.reason is None
    interruption.hand_on()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_max_minutes_exits_resumable(command, folder, small_synthetic, records):
    for _ in range(20):  # each attempt takes at least one of twelve steps
        code, _, error = command(*COMMAND, "trainer.max_minutes=1e-9")
        if code == 0:
            break
        assert code == main.EXIT_RESUMABLE
        assert "trainer.max_minutes=1e-09: " in error

    assert code == 0
    assert len(records("smoke")) == 1


def test_signal_during_finish_keeps_record(command, folder, small_synthetic, monkeypatch, records):
    finish = RunFiles.finish

    def finish_with_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(*arguments)

    monkeypatch.setattr(RunFiles, "finish", finish_with_signal)
    code, _, error = command(*COMMAND)
    assert code == main.EXIT_RESUMABLE
    assert "is finished" in error
    assert len(records("smoke")) == 1

    assert command(*COMMAND)[0] == 0
