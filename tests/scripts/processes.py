"""Child processes in which the tests run scripts."""

import os
import subprocess
import sys

from tests.conftest import ROOT

#: The environment of a script, with one thread and no CUDA device.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_python(
    *arguments: str, environment: dict[str, str] = ENVIRONMENT, text: str = ""
) -> subprocess.CompletedProcess:
    """Run Python, and return its exit code and output.

    Args:
        text: the standard input.
    """
    command = [sys.executable, *arguments]
    return subprocess.run(command, input=text, env=environment, capture_output=True, text=True)
