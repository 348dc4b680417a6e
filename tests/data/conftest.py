"""Fixtures of the tests of data sets."""

import dataclasses
import hashlib

import pytest

from sam_bench.data import cifar
from tests.data import cifar_files


@pytest.fixture(scope="session")
def cifar10_contents() -> dict[str, bytes]:
    """Make CIFAR-10's six files, small and of noise."""
    return cifar_files.cifar10_contents()


@pytest.fixture
def small_cifar10(cifar10_contents, monkeypatch) -> dict[str, bytes]:
    """Expect the digests of the small files, and make remote sources unavailable; return the files' contents."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in cifar10_contents.items()}
    remote = dict.fromkeys(cifar.CIFAR10.remote, cifar_files.unavailable)
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, digests=digests, remote=remote))
    return cifar10_contents
