"""The wheel, installed where no checkout is near."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sam_bench
from tests.conftest import ROOT, TINY, everything_below


def do(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was built from that."""
    folder = tmp_path_factory.mktemp("wheel")
    do("build", "--no-isolation", "--outdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def installed(built) -> dict[str, str]:
    """The environment of a process that imports sam_bench from the wheel alone."""
    (wheel,) = built.glob("*.whl")
    site = built / "site"
    do("pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    assert (site / "sam_bench" / "conf" / "optimizer" / "gsam.yaml").is_file()
    assert (site / "sam_bench" / "report" / "assets" / "uplot.min.js").is_file()
    assert (site / "bin" / "sam-bench").is_file()
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def call(installed, cwd, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=cwd, env=installed, capture_output=True, text=True)


def test_what_is_published_passes_the_index_checks(built):
    pytest.importorskip("twine")
    archives = [str(path) for path in sorted(built.glob("sam_bench-*"))]
    assert [Path(path).suffix for path in archives] == [".whl", ".gz"]
    do("twine", "check", "--strict", *archives)


def test_the_wheel_has_its_types_and_says_what_it_is(installed):
    site = Path(installed["PYTHONPATH"])
    assert (site / "sam_bench" / "py.typed").is_file()
    (metadata,) = site.glob("sam_bench-*.dist-info/METADATA")
    said = metadata.read_text()
    version = said.split("\nVersion: ")[1].split()[0]
    assert version == sam_bench.__version__
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"\nSummary: {citation['abstract']}\n" in said
    assert f"\nAuthor: {citation['authors'][0]['name']}\n" in said
    assert f"\nLicense-Expression: {citation['license']}\n" in said
    for version in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {version}\n" in said
    assert "Classifier: Typing :: Typed" in said


def test_the_first_example_runs_beside_it(installed, tmp_path):
    (tmp_path / "example.py").write_text((ROOT / "examples" / "plain_loop.py").read_text())
    done = call(installed, tmp_path, "example.py")
    assert done.returncode == 0, done.stderr


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


def test_it_has_the_commands(installed, tmp_path):
    script = f"{installed['PYTHONPATH']}/bin/sam-bench"
    for name in ("study", "data"):
        shown = call(installed, tmp_path, script, name, "--help")
        assert shown.returncode == 0 and shown.stdout.startswith(f"usage: sam-bench {name} "), shown.stderr
    for name in ("table", "report"):
        refused = call(installed, tmp_path, script, name)
        assert refused.returncode == 1 and refused.stderr.startswith("Error: there are no records"), refused.stderr
    assert everything_below(tmp_path) == []


def test_a_method_of_ones_own_is_tested_and_trained_beside_it(installed, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "recipes" / "own_method.md").read_text(), re.S)
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
