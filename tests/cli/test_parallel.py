"""Tests of `Programs`, which runs Python programs side by side."""

import signal

from sam_bench.cli.parallel import Programs
from tests.cli.conftest import sigterm_when


def test_signal_ends_running_programs(tmp_path):
    wait = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
    commands = [["-c", wait, str(tmp_path / str(number))] for number in range(3)]
    handler_before = signal.getsignal(signal.SIGTERM)

    programs = Programs(at_once=2)
    with sigterm_when(lambda: len(list(tmp_path.iterdir())) >= 2):
        codes = programs.run(commands)

    assert codes == [-signal.SIGTERM, -signal.SIGTERM, None]
    assert programs.stopped == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler_before


def test_exit_codes_are_returned_and_reported():
    reported = {}
    codes = Programs(2).run([["-c", f"raise SystemExit({code})"] for code in (0, 3)], reported.__setitem__)
    assert codes == [0, 3]
    assert reported == {0: 0, 1: 3}
