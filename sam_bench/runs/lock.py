"""The lock that keeps two processes from working on one run."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path

from sam_bench.errors import Busy, StateError


class RunLock:
    """A kernel lock on a file. It ends with its process, however that ends; the file names the process.

    The file stays: if it were deleted, two processes could hold locks on two files of the same name.

    Raises:
        Busy: another process holds the lock.
        StateError: the file cannot be created, locked or written.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StateError(
                f"{path} cannot be created ({error.strerror}); set paths.runs to another folder"
            ) from error

        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self.descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(self.descriptor)
            raise Busy(f"{path.stem} is being run by {owner}; it can be run again when that has ended") from error
        except OSError as error:
            os.close(self.descriptor)
            raise StateError(f"{path} cannot be locked ({error.strerror}); set paths.runs to another folder") from error

        # For the message of whoever is refused the lock.
        try:
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        except OSError as error:
            self.release()
            raise StateError(f"{path} cannot be written ({error.strerror})") from error

    def release(self) -> None:
        """Release the lock, so that another process can take the run."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)
