"""The wheel, installed where no checkout is near."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TINY, everything_below


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that imports sam_bench from the wheel alone."""
    folder = tmp_path_factory.mktemp("wheel")

    def call(*command: str) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    call(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    assert (site / "sam_bench" / "conf" / "optimizer" / "gsam.yaml").is_file()
    assert (site / "sam_bench" / "report" / "assets" / "uplot.min.js").is_file()
    assert (site / "bin" / "sam-bench").is_file()
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def call(installed, cwd, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=cwd, env=installed, capture_output=True, text=True)


def test_it_shows_its_configuration(installed, tmp_path):
    done = call(installed, tmp_path, "-m", "sam_bench", "--cfg", "job", "optimizer=gsam")
    assert done.returncode == 0, done.stderr
    assert "alpha: 0.4" in done.stdout
    assert everything_below(tmp_path) == []


def test_it_runs_as_a_module_and_as_a_command(installed, tmp_path):
    arguments = [*TINY, "experiment=smoke", "optimizer=sgd"]
    done = call(installed, tmp_path, "-m", "sam_bench", *arguments)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "results" / "smoke" / "records").glob("*.json")
    assert '"git_commit": null' in record.read_text()
    script = f"{installed['PYTHONPATH']}/bin/sam-bench"
    again = call(installed, tmp_path, script, *arguments, "trainer.progress=plain")
    assert "finished before" in again.stdout, again.stderr


def test_a_method_of_ones_own_is_tested_and_trained_beside_it(installed, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    for name, part in (("sign_sam.py", "plugin("), ("test_sign_sam.py", "check_method(")):
        (tmp_path / name).write_text(next(block for block in blocks if part in block))
    tested = call(installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sign_sam.py")
    assert tested.returncode == 0, tested.stdout
    done = call(installed, tmp_path, "-m", "sam_bench", *TINY, "plugin=sign_sam.py", "optimizer=sign_sam",
                "optimizer.zeta=0.001", "experiment=smoke")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "results" / "smoke" / "records").glob("sign_sam-*.json")
    assert '"package": "sign_sam.py ' in record.read_text()
    wrong = "plugin=sign_sam.py", "optimizer=sign_sam", "optimizer.zeta=-1"
    refused = call(installed, tmp_path, "-m", "sam_bench", *wrong)
    assert "optimizer.zeta=-1 must be a finite number that is at least 0 (ζ, below which" in refused.stderr
