"""Provenance of a result: the versions of the code and libraries that made it."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def code_versions(*packages: str) -> dict[str, Any]:
    """Return the versions, including those of `packages`, and the Git commit, as a record has them."""
    return {"versions": versions(*packages), "git_commit": git_commit()}


def versions(*packages: str) -> dict[str, str | None]:
    """Return the version of everything that can change a result, including `packages`; None for what is not there."""
    result: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}

    # libc allocates the memory, unless another allocator is preloaded.
    result["libc"] = " ".join(platform.libc_ver()) or None
    result["preloaded"] = ", ".join(Path(name).name for name in os.environ.get("LD_PRELOAD", "").split()) or None

    for name in ("sam_bench", "torch", "numpy", "hydra-core", *packages):
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # for sam_bench, a checkout that was never installed
            result[name] = None
    return result


def git_commit() -> str | None:
    """Return the checkout's commit, followed by "+changes" if `sam_bench` or `conf` differs from it.

    Outside a checkout, return the environment variable `SAM_BENCH_COMMIT`, or None if it is not set.
    """
    outside = os.environ.get("SAM_BENCH_COMMIT")
    root = Path(__file__).resolve().parents[2]

    # A git hook's variables, such as GIT_DIR and GIT_INDEX_FILE, are about another repository.
    foreign = [name for name in os.environ if name.startswith("GIT_") and not name.startswith("GIT_CONFIG")]
    environment = {name: value for name, value in os.environ.items() if name not in foreign}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return outside
        changes = git("status", "--porcelain", "--", "sam_bench", "conf")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return outside
