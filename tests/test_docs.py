"""Tests of the README and the pages of `docs/`: their commands, programs, links and numbers, and the built site."""

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser

from sam_bench.cli import tuning
from sam_bench.cli.commands import study
from sam_bench.cli.compose import compose
from sam_bench.cli.request import read_request
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import METHODS
from sam_bench.report.markup import replace_generated
from sam_bench.report.study import Study
from scripts.benchmark.report import summary
from tests.conftest import ROOT

#: Folders that a build makes in `docs/`.
BUILT = {"_build", "studies"}

#: The texts of the pages, by path.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "results" / "README.md",
        *ROOT.glob("docs/**/*.md"),
    )
    if not BUILT & set(path.parts)
}

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
NEEDS_DOCS = "the docs extra is not installed: pip install -e '.[docs]'"


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of code of a page in one language."""
    return [code for kind, code in BLOCK.findall(PAGES[page]) if kind == language]


#: The last page that has a command, by the command.
COMMANDS = {line: page for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()}


class ArgumentsParsed(BaseException):
    """Raised once a command has parsed its arguments, so that it does nothing else."""


@pytest.fixture
def commands_only_parse(monkeypatch):
    """Let each command end once its arguments are parsed."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_end(*arguments, parse=parse, **more):
            parse(*arguments, **more)
            raise ArgumentsParsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_end)


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows: a block is the file that the paragraph above it names first."""
    for match in BLOCK.finditer(PAGES[page]):
        paragraph = PAGES[page][: match.start()].rstrip("\n").rpartition("\n\n")[2]
        name = re.search(r"`([\w/]+\.(?:py|yaml))`", paragraph)
        if name and match[1] in ("python", "yaml"):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(match[2])


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_valid(command, folder, plugins_for_now, commands_only_parse):
    write_files("docs/recipes/own_method.md", folder)
    write_files(COMMANDS[command], folder)
    (folder / "mine").mkdir(exist_ok=True)

    program, *arguments = shlex.split(command)
    if program == "make":
        check_make(arguments)
    elif program == "sam-bench":
        check_sam_bench(arguments)
    elif "sam_bench" in arguments:
        check_sam_bench(arguments[arguments.index("sam_bench") + 1 :])
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[([\w-]+)\]", command)) <= set(extras)
    elif command.startswith("python -m pytest "):
        assert (ROOT / arguments[2]).exists()
    else:
        other_commands = (". .venv/bin/activate", "mkdir -p mine", "tensorboard --logdir runs")
        assert command in other_commands, "this test cannot check such a command"


def check_make(arguments: list[str]) -> None:
    """Check that the Makefile has the target, and the variables."""
    makefile = (ROOT / "Makefile").read_text()
    target, *variables = arguments
    assert re.search(rf"^{target}:", makefile, re.M)
    for variable in variables:
        name, _, value = variable.partition("=")
        assert re.search(rf"^{name} \?=", makefile, re.M)
        if target == "data" and name == "OPTIONS":
            check_sam_bench(["data", value])


def check_sam_bench(arguments: list[str]) -> None:
    """Check that a command of `sam-bench` takes its arguments, or that its runs can be composed."""
    if re.fullmatch(r"[a-z]+", arguments[0]):
        module = importlib.import_module(f"sam_bench.cli.commands.{arguments[0]}")
        with pytest.raises(ArgumentsParsed):
            module.main(arguments[1:])
        return

    parser = get_args_parser()
    try:
        options = argparse.ArgumentParser.parse_known_args(parser, arguments)[0]
        if options.cfg:  # nothing is trained, and nothing checked
            options.cfg = None
        assert options.help or read_request(options).configs
    except ConfigError as error:  # of an extra
        extra = re.search("hydra/(?:launcher|sweeper)=(ray|slurm|optuna)", " ".join(arguments))[1]
        assert f"pip install -e '.[{extra}]'" in str(error)


def test_pages_have_commands_of_each_program():
    assert len(COMMANDS) > 70
    assert {command.split()[0] for command in COMMANDS} >= {"make", "pip", "python", "sam-bench", "torchrun"}


@pytest.mark.parametrize("page", ["README.md", "docs/training_loop.md"])
def test_loop_takes_step(page):
    model = torch.nn.Linear(4, 3)
    before = model.weight.detach().clone()
    names = {"model": model, "x": torch.randn(5, 4), "y": torch.randint(0, 3, (5,))}
    for program in blocks(page, "python"):
        exec(program, names)
    assert names["loss"].isfinite()
    assert not torch.equal(before, model.weight)


def test_readme_names_every_method():
    assert all(entry.title in PAGES["README.md"] for entry in METHODS.values())


def test_own_method_is_tuned_and_compared(folder, plugins_for_now):
    write_files("docs/recipes/own_method.md", folder)
    config_dir = Path("mine")

    # Both methods are tuned over the same learning rates.
    trials = tuning.plan_trials("noisy40", ["sgd"], 3, []) | tuning.plan_trials(
        "noisy40", ["sign_sam"], 3, ["plugin=sign_sam.py"], config_dir=config_dir
    )
    sgd_rates, own_rates = (
        [trial.settings["optimizer.base.lr"] for trial in of_method] for of_method in trials.values()
    )
    assert sgd_rates == own_rates

    runs = study.plan_study(Study.read(study.path_of("sign_sam", config_dir)), [0], (), config_dir)
    assert [run.title for run in runs] == ["SGD  seed 0", "SAM  seed 0", "SignSAM  seed 0"]


def test_own_study_is_composed(folder):
    write_files("docs/recipes/compare.md", folder)
    own_study = Study.read(Path("mine.yaml"))
    assert [compose(own_study.overrides(title)).optimizer.name for title in own_study.rows] == ["sgd", "sam", "asam"]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_have_targets(page):
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    for path in re.findall(r"`((?:docs|results|examples|conf|sam_bench|scripts|tests)/[\w./-]+)`", PAGES[page]):
        if not path.startswith(("results/quick/", "results/noisy40")):  # of the reader's own runs
            assert (ROOT / path).exists(), path


def test_differences_are_in_tables():
    tables = "".join(path.read_text() for path in ROOT.glob("results/measured/*/table.md"))
    tables += (ROOT / "results" / "measured" / "across.md").read_text()

    # Differences that pages name, each with its interval.
    difference = r"[+−]?\d+\.\d+\s(?:± \d+\.\d+|\([+−]\d+\.\d+ to [+−]\d+\.\d+\))"
    named = {(page, re.sub(r"\s", " ", each)) for page, text in PAGES.items() for each in re.findall(difference, text)}
    assert len(named) > 10
    assert {(page, number) for page, number in named if number not in tables} == set()


def test_table_of_costs_equals_benchmark():
    (name,) = re.findall(r"\[`results/benchmark/([\w-]+)\.md`\]", PAGES["docs/cost.md"])
    data = json.loads((ROOT / "results" / "benchmark" / f"{name}.json").read_text())
    assert "\n".join(summary(data)) in PAGES["docs/cost.md"]


def test_generated_parts_are_fresh():
    pytest.importorskip("sphinx", reason=NEEDS_DOCS)
    from docs import generate

    for name, content in generate.generated_parts().items():
        page = PAGES[f"docs/{name}"]
        assert replace_generated(page, content, generate.COMMAND) == page, f"docs/{name} is stale: make docs"


def test_site_is_built_without_warnings(tmp_path):
    for module in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(module, reason=NEEDS_DOCS)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").is_file()
    assert "sam_bench.SAM" in (tmp_path / "api.html").read_text()
