"""One process at a time on one run."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path

from sam_bench.errors import Busy, StateError


class RunLock:
    """A kernel's lock on a file, which ends with its process, however that ends; the file says whose it is.

    The file stays: were it removed, two processes could hold locks on two files of one name.

    Raises:
        Busy: another process holds it.
        StateError: the file cannot be made.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StateError(f"{path} cannot be made ({error.strerror})") from error
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self.descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(self.descriptor)
            raise Busy(f"{path.stem} is being run by {owner}; it can be run again when that has ended") from error
        except OSError as error:
            os.close(self.descriptor)
            raise StateError(f"{path} cannot be locked ({error.strerror}); choose other paths.runs") from error
        try:
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        except OSError as error:
            self.release()
            raise StateError(f"{path} cannot be written ({error.strerror})") from error

    def release(self) -> None:
        """Let others have the run."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)
