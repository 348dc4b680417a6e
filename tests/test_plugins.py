"""Methods of other packages and of a file: offered like our own, or refused in one line before anything is created."""

import json
import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from sam_bench import AESAM, ESAM, MSAM, SAM, SAMPa, plugins
from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import ADAPTIVE, METHODS
from sam_bench.plugins import Option, plugin
from sam_bench.runs.spec import RunSpec
from sam_bench.training.build import build_network, build_optimizer
from tests.conftest import TINY, everything_below, execute
from tests.forked import Forked, command_line

FILE = """
import torch
from sam_bench import SAM
from sam_bench.plugins import Option, plugin

SHARE = Option("share", float, "the part of h in the direction", ge=0, le=1)

class HalfSAM(SAM):
    keeps_gradient = True

    def __init__(self, params, base_optimizer, rho=0.07, *, share=0.5, **options):
        super().__init__(params, base_optimizer, rho, **options)
        self.share = share

    def combine(self, g, h):
        return torch._foreach_lerp(g, h, self.share)

METHOD = plugin(HalfSAM, "half_sam", title="HalfSAM", summary="the mean", paper="mine", options=(SHARE,))
"""

pytestmark = pytest.mark.usefixtures("plugins_for_now")
SMALL = [*TINY, "trainer.device=cpu", "model=resnet8"]


@pytest.fixture
def file(folder):
    path = folder / "half_sam.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def install(monkeypatch):
    """Makes a package with an entry point be installed; what that loads may be an error."""

    def as_installed(*loaded, package="their-pkg", version="1.2"):
        def load(value):
            if isinstance(value, BaseException):
                raise value
            return value

        dist = SimpleNamespace(name=package, version=version)
        points = [SimpleNamespace(name="half_sam", dist=dist, load=lambda value=value: load(value)) for value in loaded]
        found = metadata.entry_points
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == plugins.GROUP else found(group))

    return as_installed


class HalfSAM(SAM):
    def __init__(self, params, base_optimizer, rho=0.07, *, share=0.5, **options):
        super().__init__(params, base_optimizer, rho, **options)


SHARE = Option("share", float, "a share", ge=0, le=1)
ABOUT = {"title": "HalfSAM", "summary": "the mean", "paper": "mine"}
ENTRY = plugin(HalfSAM, "half_sam", options=(SHARE,), **ABOUT)


def test_a_files_method_is_composed_checked_and_run_like_our_own(file, small_synthetic):
    config = compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam", "optimizer.share=0.25"])
    assert (config.optimizer.rho, config.optimizer.options()) == (0.07, {"share": 0.25})
    record = execute(config)
    assert (record["method"], record["status"], record["passes"]) == ("half_sam", "finished", 4)
    name, digest = record["config"]["optimizer"]["package"].split()
    assert name == "half_sam.py" and len(digest) == 12
    for wrong, message in (("optimizer.share=2", "at most 1"), ("optimizer.shar=0.1", "share")):
        with pytest.raises(ConfigError, match=message):
            compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam", wrong])
    late = compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam", "optimizer.start_at=0.5", "optimizer.m=2"])
    assert execute(late)["passes"] == 3


def test_another_content_of_the_file_is_another_run(file):
    overrides = [*SMALL, f"plugin={file}", "optimizer=half_sam"]
    first, again = (RunSpec.resolve(compose.compose(overrides)).run_id for _ in range(2))
    file.write_text(FILE + "\n# changed\n")
    assert first == again != RunSpec.resolve(compose.compose(overrides)).run_id
    ours = [
        RunSpec.resolve(compose.compose([*SMALL, "optimizer=sam", *more])).run_id for more in ([], overrides[-2:-1])
    ]
    assert ours[0] == ours[1]


def test_an_installed_packages_method_is_offered_and_its_version_is_part_of_the_run(install, folder, small_synthetic):
    install(ENTRY)
    record = execute(compose.compose([*SMALL, "optimizer=half_sam"]))
    assert record["config"]["optimizer"]["package"] == "their-pkg 1.2"


def test_a_sweep_its_help_and_its_table_have_a_files_method(folder, file):
    arguments = [*SMALL, "plugin=half_sam.py", "optimizer=half_sam,sam", "optimizer.rho=0.1", "trainer.progress=none"]
    said, code = on_the_command_line(folder, "-m", *arguments, "hydra/launcher=joblib")
    assert code == 0, said
    assert "2 runs: 2 finished" in said
    said, _ = on_the_command_line(folder, "plugin=half_sam.py", "--help")
    assert "optimizer=half_sam\n  share     the part of h" in said and "gsam, half_sam" in said
    records = [json.loads(path.read_text()) for path in (folder / "results" / "default" / "records").glob("*.json")]
    assert {record["method"] for record in records} == {"half_sam", "sam"}


def on_the_command_line(folder, *arguments: str) -> tuple[str, int]:
    """What a command says, and its exit code."""
    process = Forked(command_line, *arguments, cwd=folder)
    said, _ = process.communicate()
    return said, process.returncode


BROKEN = {
    "no such file": (None, "cannot be read: No such file"),
    "a syntax error": ("def", "cannot be loaded: SyntaxError"),
    "an error": ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
    "no method": ("x = 1", "has no method"),
    "a name that is taken": (FILE.replace('"half_sam"', '"sam"'), "has a method sam, and so has sam_bench itself"),
    "a name that is none": (FILE.replace('"half_sam"', '"Half SAM"'), "small letters"),
    "an option that all have": (FILE.replace("share", "m"), "the option m has the name of a setting that all methods"),
    "an option of the engine's": (
        FILE.replace("share", "start"),
        "the option start has the name of a setting",
    ),
    "a radius that is not said": (
        FILE.replace("rho=0.07, *, share=0.5, **options", "share=0.5").replace(", rho, **options", ""),
        "must take rho=",
    ),
    "nobody's home": (None, "begins with the home folder of a user who does not exist"),
    "a default out of range": (FILE.replace("share=0.5", "share=5.0"), "share=5.0 must be"),
    "an option without a default": (FILE.replace("share=0.5", "share"), "with a default"),
    "another class": (FILE.replace("plugin(HalfSAM", "plugin(int"), "must be a subclass of sam_bench.SharpnessAware"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_before_anything_is_created(folder, file, case):
    content, message = BROKEN[case]
    file.unlink() if content is None else file.write_text(content)
    path = "'~nobodyx/half_sam.py'" if "home" in case else "half_sam.py"
    said, code = on_the_command_line(folder, *SMALL, f"plugin={path}", "optimizer=half_sam")
    assert code == 2
    assert said.startswith("Error: ") and said.count("\n") == 1 and message in said
    assert [path for path in everything_below(folder) if "half_sam" not in str(path)] == []


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (
            [ImportError("No module named 'theirs'")],
            "half_sam of their-pkg 1.2 cannot be loaded: ImportError: No module",
        ),
        ([HalfSAM], "must be what sam_bench.plugins.plugin"),
        ([plugin(HalfSAM, "gsam", options=(SHARE,), **ABOUT)], "their-pkg 1.2 has a method gsam, and so has sam_bench"),
    ],
)
def test_a_broken_package_is_refused(install, loaded, message):
    install(*loaded)
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            compose.compose([*SMALL])


def test_two_plug_ins_with_one_name_are_refused(install, file, folder):
    install(ENTRY)
    with pytest.raises(ConfigError, match=r"half_sam.py .* has a method half_sam, and so has their-pkg 1.2"):
        compose.compose([*SMALL, f"plugin={file}"])
    METHODS.pop("half_sam")
    compose.compose([*SMALL, f"plugin={file}"])
    other = folder / "elsewhere" / "half_sam.py"
    other.parent.mkdir()
    other.write_text(FILE)
    with pytest.raises(ConfigError, match=r"half_sam.py .* has a method half_sam, and so has half_sam.py"):
        compose.compose([*SMALL, f"plugin={other}"])


def test_a_file_imports_what_lies_beside_it(folder, monkeypatch, small_synthetic):
    monkeypatch.setattr(sys, "path", list(sys.path))
    beside = folder / "mine"
    beside.mkdir()
    (beside / "half_sams_share.py").write_text("SHARE = 0.5\n")
    (beside / "half_sam.py").write_text("from half_sams_share import SHARE as HALF\n" + FILE)
    assert compose.compose([*SMALL, "plugin=mine/half_sam.py", "optimizer=half_sam"]).optimizer.name == "half_sam"


def test_a_file_is_what_it_is_now_however_alike_it_was_before(folder, file, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    asked = [*SMALL, f"plugin={file}", "optimizer=half_sam"]
    assert compose.compose(asked).optimizer.model_dump()["rho"] == 0.07
    written = file.stat()
    file.write_text(FILE.replace("rho=0.07", "rho=0.08"))
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert compose.compose(asked).optimizer.model_dump()["rho"] == 0.08
    assert everything_below(folder) == ["half_sam.py"]


TOTAL = """
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


def test_a_method_is_given_the_runs_steps_where_its_class_takes_them(file, small_synthetic):
    file.write_text(TOTAL)
    assert execute(compose.compose([*SMALL, f"plugin={file}", "optimizer=late"]))["passes"] == 3


def test_a_class_that_does_not_take_what_all_are_given_is_refused(file, small_synthetic):
    file.write_text(FILE.replace("share=0.5, **options", "share=0.5, model=None").replace("rho, **options", "rho"))
    with pytest.raises(ConfigError, match=r"optimizer=half_sam with model=resnet8: .*unexpected keyword"):
        execute(compose.compose([*SMALL, f"plugin={file}", "optimizer=half_sam"]))


@pytest.mark.parametrize("words", [["plugin=a.py,b.py"], ["plugin=[a.py,b.py]"], ["plugin=a.py", "plugin=b.py"]])
def test_several_files_are_refused(words):
    with pytest.raises(ConfigError, match="plugin takes one file"):
        compose.compose([*SMALL, *words])


def test_a_preset_cannot_have_a_file_executed(folder, file):
    preset = folder / "mine" / "experiment" / "sly.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(f"# @package _global_\nplugin: {file}\n")
    file.write_text("open('executed', 'w')")
    said, code = on_the_command_line(folder, *SMALL, "experiment=sly", "--config-dir", "mine")
    assert code == 2 and "give it on the command line" in said
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", ["", "Half", "half-sam", "1half"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="small letters"):
        plugin(HalfSAM, name, **ABOUT)


def test_plugin_by_default_describes_the_class():
    found = [plugin(cls, "other", **ABOUT) for cls in (HalfSAM, ESAM, MSAM)]
    assert [entry.passes for entry in found] == ["2", "2", "1"]
    assert [entry.two_passes for entry in found] == [True, True, False]
    assert [entry.takes_parts for entry in found] == [True, True, True]
    assert not plugin(AESAM, "other", **ABOUT).takes_parts


@pytest.mark.parametrize(("cls", "passes"), [(SAM, "1"), (MSAM, "2"), (MSAM, "1.0")])
def test_plugin_with_passes_of_another_class_is_refused(cls, passes):
    with pytest.raises(ValueError, match=f"passes='{passes}' must be \"1\" if, and only if, two_passes is False"):
        plugin(cls, "other", passes=passes, **ABOUT)


def test_plugin_offers_an_option_of_a_parent_class():
    entry = plugin(HalfSAM, "half_sam", options=(SHARE, ADAPTIVE), **ABOUT)
    assert dict(entry.defaults) == {"rho": 0.07, "share": 0.5, "adaptive": False}


SEEDED = """
from sam_bench import SSSAM
from sam_bench.plugins import plugin

class Mine(SSSAM):
    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, base_optimizer, rho, **options)

METHOD = plugin(Mine, "mine", title="Mine", summary="SS-SAM", paper="mine")
"""


def test_run_gives_its_seed_to_a_parent_class(file, small_synthetic):
    file.write_text(SEEDED)
    config = compose.compose([*SMALL, f"plugin={file}", "optimizer=mine", "seed=3"])
    assert build_optimizer(config, build_network(config)).seed == 3


def test_step_is_captured_only_if_described_as_capturable():
    described, capturable = (
        plugin(HalfSAM, "half_sam", options=(SHARE,), capturable=value, **ABOUT) for value in (False, True)
    )
    assert "capturable=True" in described.why_not_captured
    assert capturable.why_not_captured == ""
    assert "repeats" in plugin(SAMPa, "again", capturable=True, **ABOUT).why_not_captured
    assert "waits" in plugin(AESAM, "other", capturable=True, **ABOUT).why_not_captured


def test_describing_nothing_imports_nothing():
    program = "import sys, sam_bench.plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
