"""What code made a result."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def code_versions(*packages: str) -> dict[str, Any]:
    """Versions and commit, as a record has them; of these packages too."""
    return {"versions": versions(*packages), "git_commit": git_commit()}


def versions(*packages: str) -> dict[str, str | None]:
    """Return the version of whatever can change a result."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    found["libc"] = " ".join(platform.libc_ver()) or None  # whose memory allocator it is, unless one was preloaded
    found["preloaded"] = ", ".join(Path(name).name for name in os.environ.get("LD_PRELOAD", "").split()) or None
    for name in ("sam_bench", "torch", "numpy", "hydra-core", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that was never installed
            found[name] = None
    return found


def git_commit() -> str | None:
    """The checkout's commit, with "+changes" where the code differs from it.

    Outside a checkout it is what the environment variable `SAM_BENCH_COMMIT` says, else None.
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
