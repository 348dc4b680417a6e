"""Tests of methods from plug-in files and installed packages."""

import os
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from sam_bench import plugins
from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS
from sam_bench.plugins import plugin
from sam_bench.runs.spec import RunSpec
from sam_bench.training.build import build_network, build_optimizer
from tests.conftest import TINY, everything_below, execute
from tests.forked import Forked, command_line
from tests.half_sam import ABOUT, ENTRY, FILE, SHARE, HalfSAM

pytestmark = pytest.mark.usefixtures("plugins_for_now")
SMALL = [*TINY, "trainer.device=cpu", "model=resnet8"]


@pytest.fixture
def file(folder) -> Path:
    """Write the plug-in file; return its path."""
    path = folder / "half_sam.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def install(monkeypatch):
    """Return a function that installs a package with one entry point, which loads a value or raises an error."""

    def pretend_installed(loaded, package="their-pkg", version="1.2"):
        def load():
            if isinstance(loaded, BaseException):
                raise loaded
            return loaded

        point = SimpleNamespace(name="half_sam", dist=SimpleNamespace(name=package, version=version), load=load)
        others = metadata.entry_points
        monkeypatch.setattr(
            metadata, "entry_points", lambda group: [point] if group == plugins.GROUP else others(group)
        )

    return pretend_installed


def run_command(folder, *arguments: str) -> tuple[str, int]:
    """Run the command line in a process; return its output and its exit code."""
    process = Forked(command_line, *arguments, cwd=folder)
    output, _ = process.communicate()
    return output, process.returncode


def test_file_method_is_composed_and_run(file, small_synthetic):
    overrides = [*SMALL, f"plugin={file}", "optimizer=half_sam"]

    config = compose.compose([*overrides, "optimizer.share=0.25"])
    assert (config.optimizer.rho, config.optimizer.options()) == (0.07, {"share": 0.25})

    record = execute(config)
    assert (record["method"], record["status"], record["passes"]) == ("half_sam", "finished", 4)
    name, digest = record["config"]["optimizer"]["package"].split()
    assert (name, len(digest)) == ("half_sam.py", 12)

    # Settings of every method apply to it as well.
    late = compose.compose([*overrides, "optimizer.start_at=0.5", "optimizer.m=2"])
    assert execute(late)["passes"] == 3


@pytest.mark.parametrize(("override", "message"), [("optimizer.share=2", "at most 1"), ("optimizer.shar=0.1", "share")])
def test_file_method_bad_option_is_refused(file, override, message):
    with pytest.raises(ConfigError, match=message):
        compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam", override])


def test_run_id_depends_on_content_of_file(file):
    def run_id(*overrides: str) -> str:
        return RunSpec.resolve(compose.compose([*SMALL, *overrides])).run_id

    plugin_run = [f"plugin={file}", "optimizer=half_sam"]
    before = run_id(*plugin_run)
    assert before == run_id(*plugin_run)
    file.write_text(FILE + "\n# changed\n")
    assert before != run_id(*plugin_run)

    # A run of one of our own methods does not depend on the file.
    assert run_id("optimizer=sam") == run_id("optimizer=sam", f"plugin={file}")


def test_record_names_version_of_package(install, folder, small_synthetic):
    install(ENTRY)
    record = execute(compose.compose([*SMALL, "optimizer=half_sam"]))
    assert record["config"]["optimizer"]["package"] == "their-pkg 1.2"


def test_sweep_and_help_have_method_of_file(folder, file, records):
    arguments = [*SMALL, "plugin=half_sam.py", "optimizer=half_sam,sam", "optimizer.rho=0.1", "trainer.progress=none"]
    output, code = run_command(folder, "-m", *arguments, "hydra/launcher=joblib")
    assert code == 0, output
    assert "2 runs: 2 finished" in output
    assert {record["method"] for record in records("default").values()} == {"half_sam", "sam"}

    output, _ = run_command(folder, "plugin=half_sam.py", "--help")
    assert "optimizer=half_sam\n  share     the part of h" in output
    assert "gsam, half_sam" in output


#: Broken files: their content, or None if there is no file, and a part of the message.
BROKEN = {
    "no such file": (None, "No such file"),
    "a syntax error": ("def", "SyntaxError"),
    "an error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "no method": ("x = 1", "has no method"),
    "a taken name": (FILE.replace('"half_sam"', '"sam"'), "has a method sam, and so has sam_bench"),
    "a bad name": (FILE.replace('"half_sam"', '"Half SAM"'), "small letters"),
    "an option of all methods": (FILE.replace("share", "m"), "option m "),
    "an option of the engine's": (FILE.replace("share", "start"), "the option start has the name of a setting"),
    "a class without radius": (
        FILE.replace("rho=0.07, *, share=0.5, **options", "share=0.5").replace(", rho, **options", ""),
        "must take rho=",
    ),
    "an unknown user's home": (None, "a user who does not exist"),
    "a default out of range": (FILE.replace("share=0.5", "share=5.0"), "share=5.0"),
    "an option without a default": (FILE.replace("share=0.5", "share"), "with a default"),
    "another class": (FILE.replace("plugin(HalfSAM", "plugin(int"), "subclass of sam_bench.SharpnessAware"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused_in_one_line(folder, file, case):
    content, message = BROKEN[case]
    file.unlink() if content is None else file.write_text(content)
    path = "'~nobodyx/half_sam.py'" if "home" in case else "half_sam.py"

    output, code = run_command(folder, *SMALL, f"plugin={path}", "optimizer=half_sam")

    assert code == 2
    assert output.startswith("Error: ") and output.count("\n") == 1
    assert message in output
    assert [path for path in everything_below(folder) if "half_sam" not in path] == []


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (ImportError("No module named 'theirs'"), r"half_sam of their-pkg 1\.2 .*ImportError: No module"),
        (HalfSAM, r"sam_bench\.plugins\.plugin"),
        (plugin(HalfSAM, "gsam", options=(SHARE,), **ABOUT), r"their-pkg 1\.2 has a method gsam, and so has sam_bench"),
    ],
)
def test_broken_package_is_refused_each_time(install, loaded, message):
    install(loaded)
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            compose.compose([*SMALL])


def test_two_plugins_with_one_name_are_refused(install, file, folder):
    # A file and a package.
    install(ENTRY)
    with pytest.raises(ConfigError, match=r"half_sam\.py .*has a method half_sam, and so has their-pkg 1\.2"):
        compose.compose([*SMALL, f"plugin={file}"])

    # Two files.
    METHODS.pop("half_sam")
    compose.compose([*SMALL, f"plugin={file}"])
    other = folder / "elsewhere" / "half_sam.py"
    other.parent.mkdir()
    other.write_text(FILE)
    with pytest.raises(ConfigError, match=r"half_sam\.py .*has a method half_sam, and so has half_sam\.py"):
        compose.compose([*SMALL, f"plugin={other}"])


def test_file_imports_from_its_folder(folder, monkeypatch, small_synthetic):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "mine").mkdir()
    (folder / "mine" / "half_sams_share.py").write_text("SHARE = 0.5\n")
    (folder / "mine" / "half_sam.py").write_text("from half_sams_share import SHARE as HALF\n" + FILE)
    assert compose.compose([*SMALL, "plugin=mine/half_sam.py", "optimizer=half_sam"]).optimizer.name == "half_sam"


def test_changed_file_of_equal_time_is_reloaded(folder, file, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    overrides = [*SMALL, f"plugin={file}", "optimizer=half_sam"]
    assert compose.compose(overrides).optimizer.model_dump()["rho"] == 0.07

    before = file.stat()
    file.write_text(FILE.replace("rho=0.07", "rho=0.08"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert compose.compose(overrides).optimizer.model_dump()["rho"] == 0.08
    assert everything_below(folder) == ["half_sam.py"]


#: A plug-in whose class takes the number of a run's steps.
TAKES_TOTAL_STEPS = """
from sam_bench import SAM
from sam_bench.plugins import plugin

class Late(SAM):
    def __init__(self, params, base_optimizer, rho=0.05, *, total_steps, **options):
        super().__init__(params, base_optimizer, rho, **options)
        self.total_steps = total_steps

    def has_second_pass(self, t):
        return 2 * t >= self.total_steps

METHOD = plugin(Late, "late", title="Late", summary="SAM late", paper="mine")
"""


def test_class_gets_total_steps_if_it_takes_them(file, small_synthetic):
    file.write_text(TAKES_TOTAL_STEPS)
    assert execute(compose.compose([*SMALL, f"plugin={file}", "optimizer=late"]))["passes"] == 3


def test_class_without_common_arguments_is_refused(file, small_synthetic):
    file.write_text(FILE.replace("share=0.5, **options", "share=0.5, model=None").replace("rho, **options", "rho"))
    with pytest.raises(ConfigError, match=r"optimizer=half_sam .*unexpected keyword"):
        execute(compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam"]))


@pytest.mark.parametrize("overrides", [["plugin=a.py,b.py"], ["plugin=[a.py,b.py]"], ["plugin=a.py", "plugin=b.py"]])
def test_several_files_are_refused(overrides):
    with pytest.raises(ConfigError, match="one file"):
        compose.compose([*SMALL, *overrides])


def test_preset_cannot_execute_file(folder, file):
    preset = folder / "mine" / "experiment" / "sly.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(f"# @package _global_\nplugin: {file}\n")
    file.write_text("open('executed', 'w')")

    output, code = run_command(folder, *SMALL, "experiment=sly", "--config-dir", "mine")

    assert code == 2
    assert "command line" in output
    assert not (folder / "executed").exists()


#: A plug-in whose class leaves the seed to its parent.
SEEDED = """
from sam_bench import SSSAM
from sam_bench.plugins import plugin

class Mine(SSSAM):
    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, base_optimizer, rho, **options)

METHOD = plugin(Mine, "mine", title="Mine", summary="SS-SAM", paper="mine")
"""


def test_parent_class_gets_seed_of_run(file, small_synthetic):
    file.write_text(SEEDED)
    config = compose.compose([*SMALL, f"plugin={file}", "optimizer=mine", "seed=3"])
    assert build_optimizer(config, build_network(config)).seed == 3
