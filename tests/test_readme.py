"""The README: its loop works, its commands ask for what exists, its figures are those of the committed records."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from sam_bench.cli import compose, main
from sam_bench.errors import ConfigError
from sam_bench.report.comparison import Comparison
from sam_bench.report.table import read_records, write_table
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from scripts import study
from scripts.benchmark.report import summary
from tests.conftest import ROOT, options

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and " -m sam_bench" in line
]
"""Of the harness, with python or torchrun."""
OWN_METHOD = next(block for _, block in BLOCKS if "plugin(" in block)


def test_the_loop_of_the_readme_takes_a_step():
    loop = next(block for _, block in BLOCKS if "from sam_bench import SAM" in block)
    model = torch.nn.Linear(4, 3)
    before = model.weight.detach().clone()
    names = {"torch": torch, "F": torch.nn.functional, "model": model}
    names |= {"x": torch.randn(5, 4), "y": torch.randint(0, 3, (5,))}
    exec(loop, names)
    assert names["loss"].isfinite()
    assert not torch.equal(before, model.weight)


def test_the_table_of_methods_is_that_of_the_registry():
    done = subprocess.run(
        [sys.executable, "scripts/method_table.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout in README, "the README's table is not what scripts/method_table.py prints"


MEASURED = ROOT / "results" / "measured"
METHODS = ("sgd", "sam", "asam", "gsam")
STUDY = study.Study.read(study.path_of("noisy40"))


def committed(*overrides: str, seeds: Sequence[int] = STUDY.seeds) -> list[dict]:
    """The committed records of a row of noisy40, a seed each."""
    found = []
    for seed in seeds:
        config = compose.compose(["experiment=noisy40", f"seed={seed}", *overrides])
        name = RunSpec.on(config, Hardware(torch.device("cpu"), "bf16")).run_id
        found.append(json.loads((MEASURED / "noisy40" / "records" / f"{name}.json").read_text()))
    return found


def test_the_first_table_is_made_from_the_committed_records_of_the_study(tmp_path):
    records = [record for method in METHODS for record in committed(f"optimizer={method}")]
    _, protocol, comparability, table, *_ = write_table(records, "noisy40", tmp_path).split("\n\n")
    assert table in README
    assert f"{protocol} {comparability}" in " ".join(README.split())
    assert {record["dataset"] for record in records} == {"cifar10"}


def test_the_comparison_is_made_from_the_committed_records_of_the_study():
    found = Comparison.of({title: committed(*overrides) for title, overrides in STUDY.rows.items()}, STUDY.baselines)
    text = found.as_markdown()
    assert (MEASURED / "noisy40" / "comparison.md").read_text() == text
    assert (MEASURED / "noisy40" / "comparison.csv").read_text() == found.as_frame().to_csv(index=False)
    table, about = text.strip().split("\n\n")
    assert table in README
    assert about in " ".join(README.split())


def test_the_differences_at_the_papers_settings_are_those_of_the_committed_records():
    sgd, sam = (committed(f"optimizer={method}", "~tuned", seeds=(0, 1)) for method in ("sgd", "sam"))
    differences = [a["test_error"] - b["test_error"] for a, b in zip(sam, sgd, strict=True)]
    said = " and ".join(f"{difference:+.1f}".replace("-", "−") for difference in differences)
    assert f"{said} points" in " ".join(README.split())


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/records")))
def test_committed_tables_are_made_from_the_committed_records(experiment, split, tmp_path):
    name = "table" if split == "test" else "table-val"
    records = read_records(MEASURED / experiment / "records", split)
    if records:
        write_table(records, experiment, tmp_path, name, compose.describe_preset(experiment))
    made, kept = (
        {path.name: path.read_bytes() for path in folder.glob(f"{name}.*")}
        for folder in (tmp_path, MEASURED / experiment)
    )
    assert made == kept
    assert len(made) == (3 if records else 0)


def test_the_table_of_costs_is_made_from_the_committed_measurements():
    (name,) = re.findall(r"`results/benchmark/([\w-]+)\.md`", README)
    data = json.loads((ROOT / "results" / "benchmark" / f"{name}.json").read_text())
    assert "\n".join(summary(data)) in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_asks_for_runs_that_are_valid(command, folder, plugins_for_now):
    (folder / "sign_sam.py").write_text(OWN_METHOD)
    arguments = main.get_args_parser().parse_args(shlex.split(command.partition("-m sam_bench")[2]))
    try:
        assert compose.requested(arguments).configs
    except ConfigError as error:  # of an extra
        launcher = re.search("hydra/launcher=(ray|slurm)", command)[1]
        assert f"pip install -e '.[{launcher}]'" in str(error)


@pytest.mark.parametrize("preset", options("experiment"))
def test_every_preset_is_named(preset):
    assert f"`{preset}`" in README


def test_what_the_published_figures_are_not_is_said():
    section = " ".join(README.partition("## What the published figures are, and are not")[2].split())
    assert "the best of four radii on the test set (2.75, 2.69, 2.55, 2.90)" in section
    assert "which settings made GSAM's 2.45 is unknown" in section


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 11
