"""The files of a data set: found where they lie, or fetched from the first source that has them, verified, and kept."""

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sam_bench.errors import DataError

#: Name and content of each file, made one at a time.
Contents = Iterator[tuple[str, bytes]]

#: Told what is going on, and how many of the files are ready.
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
    """This source cannot give the data here and now."""


@dataclass(frozen=True)
class Files:
    """The files that a data set is kept in, and where they can be had."""

    #: The name of the data set.
    title: str
    #: The name of the folder that they lie in.
    folder: str
    #: How digests are made: sha256, or md5 where its publishers give no other.
    algorithm: str
    #: By file. A file with another one is refused.
    digests: Mapping[str, str]
    #: What else may lie in `data.root`, by name, and what reads the files from it.
    local: Mapping[str, Callable[[Path], Contents]]
    #: By name, the sources that are asked in turn; each is given the seconds that it may take.
    remote: Mapping[str, Callable[[float], Contents]]
    #: What a user can do where all of that fails, a line each, to which the name of `data.root` is given.
    advice: tuple[str, ...]

    @property
    def anew(self) -> str:
        """What to do with files that are of no use."""
        return f"move it away and run again to obtain {self.title} anew"

    def check(self, name: str, content: bytes, source: object) -> None:
        """Accept the content of a file, or refuse it.

        Args:
            source: the file, archive or server that it comes from.

        Raises:
            DataError: its digest is not the right one.
        """
        digest = hashlib.new(self.algorithm, content, usedforsecurity=False).hexdigest()
        if digest != self.digests[name]:
            raise DataError(
                f"{name} of {source} is not {self.title}'s: its {self.algorithm} is {digest}, not {self.digests[name]}"
            )

    def find(self, root: Path) -> Path | None:
        """Return the folder under `root` (or `root` itself) that holds the files, if there is one.

        Raises:
            DataError: some of the files are missing, or a folder of the usual name holds other things.
        """
        usual = root / self.folder
        for folder in (usual, root):
            missing = [name for name in self.digests if not (folder / name).is_file()]
            if not missing:
                return folder
            if len(missing) < len(self.digests):
                raise DataError(
                    f"{folder} holds some of {self.title}'s files, but not {', '.join(missing)}. "
                    f"Add what is missing, or {self.anew}."
                )
        if usual.exists() and (not usual.is_dir() or any(usual.iterdir())):
            raise DataError(f"{usual} holds none of {self.title}'s files; {self.anew}")
        return None

    def read(self, folder: Path) -> dict[str, bytes]:
        """Return the content of each file, every byte verified.

        Args:
            folder: what `obtain` returned: the folder of the files, or another layout that is converted in memory.

        Raises:
            DataError: a file's digest is not the right one, or a file cannot be read.
        """
        contents = {}
        if folder.name in self.local:
            try:
                for name, content in _reading(self.local[folder.name](folder)):
                    self.check(name, content, folder)
                    contents[name] = content
            except Unavailable as error:
                raise self._unusable(folder, error) from error
            return contents

        for name in self.digests:
            contents[name] = (folder / name).read_bytes()
            self.check(name, contents[name], f"{folder} ({self.anew})")
        return contents

    def obtain(self, root: Path, timeout: float, tell: Tell = lambda text, ready: None) -> Path:
        """Return the folder that holds the files.

        Looked for, in this order: the files in `root`; what else may lie in `root`; the remote sources. Nothing that
        lies in `root` is changed. Where another layout lies in a `root` that takes no files, such as a shared,
        read-only folder, its path is returned, and `read` converts it in memory.

        Args:
            timeout: seconds that each of the remote sources may take.

        Raises:
            DataError: what lies in `root` is damaged, or no source has the data: what was tried, why each failed, and
                what can be done.
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
            raise self._unusable(path, error) from error
        except OSError:  # of writing, since what goes wrong in reading is Unavailable
            return path

    def _unusable(self, path: Path, error: Exception) -> DataError:
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
        lines += ["Ways out:", *(f"  {line.format(root=root)}" for line in self.advice)]
        raise DataError("\n".join(lines))

    def _store(self, root: Path, contents: Contents, source: str, tell: Tell) -> Path:
        """Write the files, verified, in a folder that gets its name only when it is complete."""
        new = not root.exists()
        root.mkdir(exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-", ignore_cleanup_errors=True) as incoming:
                for ready, (name, content) in enumerate(_reading(contents), start=1):
                    self.check(name, content, source)
                    (Path(incoming) / name).write_bytes(content)
                    tell(f"{self.title} from {source}", ready)
                with contextlib.suppress(OSError):  # another process was first: its files are as good
                    Path(incoming).rename(root / self.folder)
        except BaseException:
            if new:
                with contextlib.suppress(OSError):
                    root.rmdir()
            raise
        folder = self.find(root)
        if folder is None:
            raise DataError(f"the files could not be moved to {root / self.folder}")
        with contextlib.suppress(OSError):  # file systems without permissions refuse it
            folder.chmod(0o755)
        return folder


def home_server(dataset: str, archive: str, reader: Callable[[Path], Contents], timeout: float) -> Contents:
    """Read a data set from its own server, through torchvision, in a process that is ended after `timeout` seconds.

    Args:
        dataset: the class of torchvision, which verifies the archive.
        archive: the name of the file.
        reader: what makes the files of it.

    Raises:
        Unavailable: it did not come, or not in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_client([sys.executable, "-c", _DOWNLOAD, dataset, folder], timeout)
        yield from reader(Path(folder) / archive)


def run_client(command: list[str], timeout: float) -> None:
    """Run a program that downloads something.

    Raises:
        Unavailable: it failed, or was not done in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not there after {timeout:g} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(lines[-1].strip() if lines else f"exit code {done.returncode}")


def _reading(contents: Contents) -> Contents:
    """The same contents, with whatever goes wrong as `Unavailable`: a damaged file can fail in any way."""
    try:
        yield from contents
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
