"""Processes for tests that start at once: they are forked from one that has imported everything."""

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
    """A process that calls a function, with the interface of `subprocess.Popen`; its stderr goes to its stdout.

    Args:
        work: the function, which must be importable.
        arguments: the arguments of the function.
        cwd: the current folder of the process.
        environment: environment variables in addition to those of this process.
        start_new_session: let the process lead a session of its own.
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
        args = self.output, str(cwd), dict(environment), start_new_session, work, arguments
        self.process = SERVER.Process(target=_run, args=args)
        self.process.start()
        self.pid = self.process.pid
        atexit.register(self.kill)  # in case a test fails before the process ends

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
        """Wait for the process to end; return its output, and None for its stderr.

        Raises:
            TimeoutError: the process has not ended after `timeout` seconds; it is killed.
        """
        self.process.join(timeout)
        output = Path(self.output).read_text()
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"the process did not end within {timeout} seconds; its output:\n{output}")

        Path(self.output).unlink()
        return output, None


def _run(
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
        # An interpreter ends like this, but multiprocessing does not call the exit functions.
        threading._shutdown()
        atexit._run_exitfuncs()


def command_line(*arguments: str) -> None:
    """Run `python -m sam_bench` with these arguments."""
    from sam_bench.cli import main

    sys.argv = ["sam_bench", *arguments]
    main.main()


def side_by_side(work: Callable, *arguments: object, cwd: Path) -> list[tuple[int, str]]:
    """Run a function in two processes with torchrun's environment variables; return each one's exit code and output."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        Forked(work, *arguments, cwd=cwd, environment=shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    outputs = [process.communicate()[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
