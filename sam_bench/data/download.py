"""The files of a data set: found on disk or downloaded from the first source that works, verified, and kept."""

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sam_bench.errors import DataError

#: Name and content of each file, one after another.
Contents = Iterator[tuple[str, bytes]]

#: A callback for progress: it gets a description, and the number of files that are ready.
Tell = Callable[[str, int], None]

_DOWNLOAD = """
import socket, sys
import torchvision
from torchvision.datasets.utils import download_url
socket.setdefaulttimeout(20)
dataset = getattr(torchvision.datasets, sys.argv[1])
download_url(dataset.url, sys.argv[2], dataset.filename, dataset.tgz_md5)
"""


class Unavailable(Exception):
    """A source that cannot give the data."""


@dataclass(frozen=True)
class Files:
    """The files of a data set, and where to get them."""

    #: The name of the data set.
    title: str
    #: The name of the folder that holds the files.
    folder: str
    #: The hash of `digests`: sha256, or md5 if the publishers give no other.
    algorithm: str
    #: The digest of each file, by name. A file with another digest is refused.
    digests: Mapping[str, str]
    #: Other layouts of the data in `data.root`, such as an archive: its name there, and what reads the files from it.
    local: Mapping[str, Callable[[Path], Contents]]
    #: Sources to download from, by name, in the order in which they are tried. Each gets a timeout in seconds.
    remote: Mapping[str, Callable[[float], Contents]]
    #: What a user can do if every source fails: lines of text, in which {root} stands for `data.root`.
    advice: tuple[str, ...]

    @property
    def anew(self) -> str:
        """Return the advice for files that cannot be used."""
        return f"move it away, then run again to get a new copy of {self.title}"

    def check(self, name: str, content: bytes, source: object) -> None:
        """Check the digest of a file's content.

        Args:
            name: the file, a key of `digests`.
            source: the folder, archive or server that the file comes from, for the error message.

        Raises:
            DataError: the digest is not that of `digests`.
        """
        digest = hashlib.new(self.algorithm, content, usedforsecurity=False).hexdigest()
        if digest != self.digests[name]:
            raise DataError(
                f"{name} of {source} is not the original file of {self.title}: its {self.algorithm} is {digest}, "
                f"not {self.digests[name]}"
            )

    def find(self, root: Path) -> Path | None:
        """Return the folder that holds the files, `root` or one in it; None if there is none.

        Raises:
            DataError: some of the files are missing, or a folder of the usual name holds other files.
        """
        usual = root / self.folder
        for folder in (usual, root):
            missing = [name for name in self.digests if not (folder / name).is_file()]
            if not missing:
                return folder
            if len(missing) < len(self.digests):
                raise DataError(
                    f"{folder} holds some of {self.title}'s files, but not {', '.join(missing)}. "
                    f"Add the missing files, or {self.anew}."
                )

        # A download would be moved to this name, and must not replace anything.
        if usual.exists() and (not usual.is_dir() or any(usual.iterdir())):
            raise DataError(f"{usual} holds none of {self.title}'s files; {self.anew}")
        return None

    def read(self, folder: Path) -> dict[str, bytes]:
        """Return the content of each file, with every byte verified.

        Args:
            folder: the path that `obtain` returned: the folder of the files, or another layout of the data, which is
                converted in memory.

        Raises:
            DataError: a file's digest is wrong, or a file cannot be read.
        """
        contents = {}
        if folder.name in self.local:
            try:
                for name, content in _as_unavailable(self.local[folder.name](folder)):
                    self.check(name, content, folder)
                    contents[name] = content
            except Unavailable as error:
                raise self._unusable_error(folder, error) from error
            return contents

        for name in self.digests:
            contents[name] = (folder / name).read_bytes()
            self.check(name, contents[name], f"{folder} ({self.anew})")
        return contents

    def obtain(self, root: Path, timeout: float, tell: Tell = lambda text, ready: None) -> Path:
        """Find or download the files, and return the folder that holds them.

        The order is: the files in `root`; another layout of the data in `root`; the remote sources. Existing files in
        `root` are never changed. If another layout is in a `root` that cannot be written to, such as a shared folder,
        its path is returned, and `read` converts it in memory.

        Args:
            root: the folder `data.root`.
            timeout: seconds that each remote source may take.
            tell: a callback for progress.

        Raises:
            DataError: the data in `root` are damaged, or every source failed. The message lists the reasons, and what
                the user can do.
        """
        folder = self.find(root)
        if folder is not None:
            return folder
        for name, reader in self.local.items():
            if (root / name).exists():
                return self._convert(root, name, reader, tell)
        return self._fetch(root, timeout, tell)

    def _convert(self, root: Path, name: str, reader: Callable[[Path], Contents], tell: Tell) -> Path:
        path = root / name
        try:
            return self._store(root, reader(path), str(path), tell)
        except (Unavailable, DataError) as error:
            raise self._unusable_error(path, error) from error
        except OSError:  # the root cannot be written to: an error in reading would be Unavailable
            return path

    def _unusable_error(self, path: Path, error: Exception) -> DataError:
        return DataError(f"{path} cannot be used ({self.anew}): {error}")

    def _fetch(self, root: Path, timeout: float, tell: Tell) -> Path:
        failures = []
        for name, source in self.remote.items():
            tell(f"{self.title} from {name}", 0)
            try:
                return self._store(root, source(timeout), name, tell)
            except (Unavailable, DataError, OSError) as error:
                failures.append(f"  {name}: {error}")

        lines = [f"{self.title} could not be obtained. Tried:"]
        lines += [f"  data.root={root}: it holds neither {self.folder} nor {' nor '.join(self.local)}", *failures]
        lines += ["What you can do:", *(f"  {line.format(root=root)}" for line in self.advice)]
        raise DataError("\n".join(lines))

    def _store(self, root: Path, contents: Contents, source: str, tell: Tell) -> Path:
        """Write the verified files into a folder that gets its final name only when it is complete."""
        is_new = not root.exists()
        root.mkdir(exist_ok=True)

        try:
            with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-", ignore_cleanup_errors=True) as incoming:
                for ready, (name, content) in enumerate(_as_unavailable(contents), start=1):
                    self.check(name, content, source)
                    (Path(incoming) / name).write_bytes(content)
                    tell(f"{self.title} from {source}", ready)
                with contextlib.suppress(OSError):  # another process was first, with the same files
                    Path(incoming).rename(root / self.folder)
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):
                    root.rmdir()
            raise

        folder = self.find(root)
        if folder is None:
            raise DataError(f"the files could not be moved to {root / self.folder}")

        # A temporary folder is private. Some file systems have no permissions and refuse this.
        with contextlib.suppress(OSError):
            folder.chmod(0o755)
        return folder


def home_server(dataset: str, archive: str, reader: Callable[[Path], Contents], timeout: float) -> Contents:
    """Read a data set from its own server, through torchvision, in a process that is killed after `timeout` seconds.

    Args:
        dataset: the data set's class in torchvision, which verifies the archive.
        archive: the file name of the archive.
        reader: a function that reads the files from the archive.
        timeout: seconds that the download may take.

    Raises:
        Unavailable: the download failed, or was not finished in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_client([sys.executable, "-c", _DOWNLOAD, dataset, folder], timeout)
        yield from reader(Path(folder) / archive)


def run_client(command: list[str], timeout: float) -> None:
    """Run a program that downloads something.

    Raises:
        Unavailable: the program failed, or was not finished in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"timed out after {timeout:g} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(lines[-1].strip() if lines else f"exit code {done.returncode}")


def _as_unavailable(contents: Contents) -> Contents:
    """Yield the same contents, and turn any error into `Unavailable`, since a damaged file can fail in any way."""
    try:
        yield from contents
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
