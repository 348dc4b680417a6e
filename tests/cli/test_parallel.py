"""Missing runs and other programs side by side: their results, exit codes and signals."""

import os
import signal
import threading
import time

from sam_bench.cli.parallel import Programs


def test_programs_run_side_by_side_and_a_signal_ends_them(tmp_path, capfd):
    wait = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
    commands = [["-c", wait, str(tmp_path / str(number))] for number in range(3)]

    def end_when_two_run() -> None:
        until = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end_when_two_run)
    before = signal.getsignal(signal.SIGTERM)
    ending.start()
    started = Programs(at_once=2)
    assert started.run(commands) == [-signal.SIGTERM, -signal.SIGTERM, None]
    ending.join()
    assert started.stopped == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_programs_tell_how_each_has_ended():
    ends = {}
    codes = Programs(2).run([["-c", f"raise SystemExit({code})"] for code in (0, 3)], ends.__setitem__)
    assert codes == [0, 3] and ends == {0: 0, 1: 3}
