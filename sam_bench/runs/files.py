"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from sam_bench.errors import StateError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that, whatever happens, `path` holds either its old content or all of the new.

    The content is written to a temporary file beside it and flushed to disk. Only then the file gets its name.

    Raises:
        StateError: the file cannot be written, for instance to a full disk, and nothing has changed; or it is written,
            but its folder cannot be flushed to disk.
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
        raise StateError(f"{path} cannot be written ({reason}); an earlier file of this name is unchanged") from error

    # The new name itself outlasts a power failure only once the folder is flushed.
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise StateError(f"{path} is written, but may not outlast a power failure ({error.strerror})") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, if the file system can flush folders.

    Raises:
        OSError: the file system can, but failed to.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


#: Errors of file systems that cannot open or flush a folder: CIFS, vboxsf, some FUSE and Ceph volumes.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EISDIR, errno.EACCES)


def sweep_temporary(folder: Path, stem: str, seconds: float = 0) -> None:
    """Delete the temporary files that killed writers left of files whose names begin with `stem`.

    Args:
        seconds: the age at which a temporary file is deleted; 0 if no writer can be at work.
    """
    for path in folder.glob(f".{stem}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()
