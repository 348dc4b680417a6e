"""Processes of their own for tests, without the seconds of imports: forked from one that has imported everything."""

import atexit
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["sam_bench.cli.main", "sam_bench.runs.run", "torch._dynamo", "tests.conftest"])


class Forked:
    """A process that does some work; it is asked and answers as a `subprocess.Popen`, its stderr with its stdout.

    Args:
        work: a function that can be imported, called with the arguments.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        work: Callable,
        *arguments: object,
        cwd: Path,
        environment: dict[str, str] | None = None,
        start_new_session: bool = False,
    ):
        descriptor, self.output = tempfile.mkstemp()
        os.close(descriptor)
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        begin = self.output, str(cwd), dict(environment), start_new_session, work, arguments
        self.process = SERVER.Process(target=_begin, args=begin)
        self.process.start()
        self.pid = self.process.pid
        atexit.register(self.kill)  # where a test failed before its end

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        self.process.join()
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, None]:
        """Wait for its end; return what it has printed."""
        self.process.join(timeout)
        said = Path(self.output).read_text()
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"it did not end within {timeout} seconds; it said:\n{said}")
        Path(self.output).unlink()
        return said, None


def _begin(
    output: str, cwd: str, environment: dict[str, str], new_session: bool, work: Callable, arguments: tuple
) -> None:
    if new_session:
        os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        work(*arguments)
    finally:
        threading._shutdown()  # an interpreter ends so, but multiprocessing leaves the exit functions out
        atexit._run_exitfuncs()


def command_line(*arguments: str) -> None:
    """Do what `python -m sam_bench` does with these arguments."""
    from sam_bench.cli import main

    sys.argv = ["sam_bench", *arguments]
    main.main()


def side_by_side(work: Callable, *arguments: object, cwd: Path) -> list[tuple[int, str]]:
    """Let two processes do the same work, in the places that torchrun would give them; return how they end.

    Returns:
        Exit code and output of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [Forked(work, *arguments, cwd=cwd, environment=places | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    said = [each.communicate()[0] for each in both]
    return [(each.returncode, text) for each, text in zip(both, said, strict=True)]
