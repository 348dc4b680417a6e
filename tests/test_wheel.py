"""Tests of the wheel, installed where no checkout is near."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sam_bench
from tests.conftest import ROOT, TINY, everything_below


def run_module(*command: str) -> None:
    """Run a module of this interpreter in the checkout, and check that it succeeds."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """Build the source distribution, and the wheel from that; return their folder."""
    folder = tmp_path_factory.mktemp("wheel")
    run_module("build", "--no-isolation", "--outdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def site(distributions) -> Path:
    """Install the wheel alone; return the folder of the installation."""
    (wheel,) = distributions.glob("*.whl")
    folder = distributions / "site"
    run_module("pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


@pytest.fixture
def call(site, tmp_path):
    """Return a function that runs a program, or a module after `-m`, in an empty folder with the installed package."""
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run_program(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run_program


def test_distributions_pass_twine_check(distributions):
    pytest.importorskip("twine")
    archives = [str(path) for path in sorted(distributions.glob("sam_bench-*"))]
    assert [Path(path).suffix for path in archives] == [".whl", ".gz"]
    run_module("twine", "check", "--strict", *archives)


def test_wheel_has_data_files_and_types(site):
    files = ["conf/optimizer/gsam.yaml", "report/assets/uplot.min.js", "py.typed"]
    assert all((site / "sam_bench" / name).is_file() for name in files)
    assert (site / "bin" / "sam-bench").is_file()


def test_metadata_agree_with_citation_and_changelog(site):
    (path,) = site.glob("sam_bench-*.dist-info/METADATA")
    metadata = path.read_text()
    version = metadata.split("\nVersion: ")[1].split()[0]
    assert version == sam_bench.__version__
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"\nSummary: {citation['abstract']}\n" in metadata
    assert f"\nAuthor: {citation['authors'][0]['name']}\n" in metadata
    assert f"\nLicense-Expression: {citation['license']}\n" in metadata

    for python in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {python}\n" in metadata
    assert "Classifier: Typing :: Typed" in metadata


def test_installed_package_runs_plain_loop(call, tmp_path):
    (tmp_path / "example.py").write_text((ROOT / "examples" / "plain_loop.py").read_text())
    done = call("example.py")
    assert done.returncode == 0, done.stderr


def test_installed_package_shows_configuration(call, tmp_path):
    done = call("-m", "sam_bench", "--cfg", "job", "optimizer=gsam")
    assert done.returncode == 0, done.stderr
    assert "alpha: 0.4" in done.stdout
    assert everything_below(tmp_path) == []


def test_installed_package_runs_as_module_and_command(call, site, tmp_path):
    arguments = [*TINY, "experiment=smoke", "optimizer=sgd"]
    done = call("-m", "sam_bench", *arguments)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "results" / "smoke" / "records").glob("*.json")
    assert '"git_commit": null' in record.read_text()

    again = call(f"{site}/bin/sam-bench", *arguments, "trainer.progress=plain")
    assert "finished before" in again.stdout, again.stderr


@pytest.mark.parametrize("name", ["study", "data"])
def test_installed_command_shows_help(call, site, tmp_path, name):
    done = call(f"{site}/bin/sam-bench", name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: sam-bench {name} ")
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("name", ["table", "report"])
def test_installed_command_without_records_is_refused(call, site, tmp_path, name):
    done = call(f"{site}/bin/sam-bench", name)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there are no records"), done.stderr
    assert everything_below(tmp_path) == []


def test_installed_package_tests_and_trains_own_method(call, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "recipes" / "own_method.md").read_text(), re.S)
    for name, part in (("sign_sam.py", "plugin("), ("test_sign_sam.py", "check_method(")):
        (tmp_path / name).write_text(next(block for block in blocks if part in block))
    tested = call("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sign_sam.py")
    assert tested.returncode == 0, tested.stdout

    method = ["plugin=sign_sam.py", "optimizer=sign_sam"]
    trained = call("-m", "sam_bench", *TINY, *method, "optimizer.zeta=0.001", "experiment=smoke")
    assert trained.returncode == 0, trained.stderr
    (record,) = (tmp_path / "results" / "smoke" / "records").glob("sign_sam-*.json")
    assert '"package": "sign_sam.py ' in record.read_text()

    refused = call("-m", "sam_bench", *method, "optimizer.zeta=-1")
    assert "optimizer.zeta=-1 must be a finite number that is at least 0" in refused.stderr
