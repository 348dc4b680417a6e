"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from sam_bench.errors import StateError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that, whatever happens, `path` holds either its old content or all of the new.

    The content goes to a temporary file beside it, is flushed to the disk, and only then gets the name.

    Raises:
        StateError: it cannot be written, and nothing has changed: a full disk, a folder that takes no files; or the
            disk fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise StateError(f"{path} cannot be written ({reason}); what was there is as before") from error
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise StateError(f"{path} is written, but may not outlast a power failure ({error.strerror})") from error


def sync_folder(folder: Path) -> None:
    """Bring the folder's names to the disk, where the file system offers that for folders.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


#: What file systems answer that cannot open or flush a folder: CIFS, vboxsf, some FUSE and Ceph volumes.
_NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EISDIR, errno.EACCES)


def sweep_temporary(folder: Path, stem: str, seconds: float = 0) -> None:
    """Remove what writers of files that begin with `stem` left when they were killed.

    Args:
        seconds: the age from which on; 0 where there can be no writer at work.
    """
    for path in folder.glob(f".{stem}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()
