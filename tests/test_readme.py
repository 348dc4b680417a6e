"""The README: its loop works, its commands ask for what exists, its figures are those of the committed records."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib as mpl
import numpy as np

from sam_bench.cli import commands, main, pages, tables, tuning
from sam_bench.cli.commands import is_command, study
from sam_bench.cli.conf_folder import describe_preset
from sam_bench.cli.methods_table import methods_table
from sam_bench.cli.request import read_request
from sam_bench.errors import ConfigError
from sam_bench.report.comparison import write_comparison
from sam_bench.report.figures import draw, write_figures
from sam_bench.report.sharpness import in_words, write_sharpness
from sam_bench.report.sharpness_figures import draw_sharpness
from sam_bench.report.study import Study
from sam_bench.report.table import Findings, read_records, write_table
from scripts.benchmark.report import summary
from tests.conftest import ROOT, options

README = (ROOT / "README.md").read_text()
RESULTS = " ".join((ROOT / "results" / "README.md").read_text().split())
"""What the studies say, at length, in one line."""
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
    assert methods_table() in README, "the README's table is not methods_table()"


MEASURED = ROOT / "results" / "measured"


def findings(experiment: str, split: str = "test") -> Findings:
    return tables.findings(experiment, read_records(MEASURED / experiment / "records", split))


def test_what_make_report_writes_into_other_files_is_what_it_would_write_today():
    folders = sorted(path.parent for path in MEASURED.glob("*/records"))
    made = {folder.name: findings(folder.name) for folder in folders if read_records(folder / "records")}
    everywhere = [row for each in made.values() for row in (*each.rows, *each.others)]
    assert (MEASURED / "published.md").read_text() == pages.published(everywhere)
    for path, content in (("README.md", pages.opening(made)), ("results/README.md", pages.what_was_run(folders))):
        text = (ROOT / path).read_text()
        assert pages.inserted(text, content) == text, f"{path} is stale: make report"
    if same_matplotlib():
        assert (MEASURED / "index.html").read_text() == pages.index(MEASURED, made), "the page is stale: make report"
    assert (MEASURED / "index.html").stat().st_size < 3_200_000


def test_what_is_said_first_is_what_the_studies_find():
    """The numbers are in words, rounded to points."""
    words = dict(enumerate(["none", "one", "two", "three", "four", "five", "six"])) | {13: "13"}
    text = " ".join(README.partition("## What was found")[2].partition(pages.BEGIN)[0].split())
    every = {name: findings(name).comparison for name in pages.ORDER}
    for comparison in every.values():
        for (row, base), found in comparison.found.items():
            assert (base.title, found.verdict) != ("SAM", "better") or row.method == "sgd", row.title

    def found_of(name, title, baseline):
        pairs = {(row.title, base.title): found for (row, base), found in every[name].found.items()}
        return pairs[title, baseline]

    def gains(name, baseline="SGD"):
        found = found_of(name, "SAM", baseline)
        return words[round(abs(found.mean))], found.verdict

    equal = "SGD, 60 epochs"
    shared, tuned = gains("noisy40_shared"), gains("noisy40")
    assert (shared[1], tuned[1]) == ("better", "not separated")
    assert f"Wrong labels, only the radius ρ tuned: SAM is better than SGD by {shared[0]} points." in text
    assert f"tuned: SAM's error is lower by {tuned[0]} points, but five seeds do not show a difference." in text
    assert found_of("noisy40", "SAM", equal).verdict == "better"
    assert found_of("noisy40", equal, "SGD").verdict == "worse"
    clean = gains("clean5k")
    assert clean == gains("clean5k", equal) == (clean[0], "better")
    assert f"Correct labels, only the radius tuned: SAM is better by {clean[0]} points, at equal epochs and at" in text
    epochs, passes = gains("clean5k_tuned"), gains("clean5k_tuned", equal)
    assert epochs[1] == passes[1] == "better"
    assert f"everything tuned: SAM is better by {epochs[0]} points, and by {passes[0]} at equal passes." in text
    assert {gains(name)[1] for name in ("noisy40_aug", "clean5k_aug")} == {"not separated"}
    passes = [gains(name, equal) for name in ("noisy40_aug", "clean5k_aug")]
    assert {verdict for _, verdict in passes} == {"worse"}
    assert f"better than SAM, by {passes[0][0]} to {passes[1][0]} points." in text


def test_the_differences_at_the_papers_settings_are_those_of_the_committed_records():
    sgd, sam = (
        next(row for row in findings("noisy40").others if row.method == method and row.mean > 65)
        for method in ("sgd", "sam")
    )
    told = [f"{sam.errors[seed] - sgd.errors[seed]:+.1f}".replace("-", "−") for seed in (0, 1)]
    assert f"{' and '.join(told)} points, at {sam.mean:.1f} and {sgd.mean:.1f} %" in RESULTS


def test_what_is_told_of_the_papers_radius_for_wrong_labels_is_that_of_the_committed_records():
    others = findings("noisy40_shared").others
    (row,) = (each for each in others if (each.method, each.runs[0]["config"]["optimizer"].get("rho")) == ("sam", 0.1))
    assert len(row.errors) == 5
    sgd, sam = (row_of("noisy40_shared", title).mean for title in ("SGD", "SAM"))
    assert f"SAM has {row.mean:.1f} % and memorises {row.means['memorised']:.0f} % of them" in RESULTS
    assert f"{sgd - row.mean:.1f} points better than SGD, and {row.mean - sam:.1f} worse than with 0.216." in RESULTS


def test_what_is_told_of_everything_tuned_with_right_labels_is_that_of_the_committed_records():
    sgd, longer, sam = (row_of("clean5k_tuned", title) for title in ("SGD", "SGD, 60 epochs", "SAM"))
    assert f"SGD comes to {sgd.mean:.1f} % and SAM to {sam.mean:.1f} %" in RESULTS
    gains = [f"{base.mean - sam.mean:.1f}" for base in (sgd, longer)]
    assert f"so SAM gains {gains[0]} points at equal epochs and {gains[1]} at equal passes." in RESULTS
    assert "Two fifths of that gain were an untuned SGD's." in RESULTS
    untuned = row_of("clean5k", "SGD").mean - row_of("clean5k", "SAM").mean
    assert 0.35 < 1 - (sgd.mean - sam.mean) / untuned < 0.45
    errors = [f"{row.means['test_ece']:.0f} %" for row in (sgd, sam)]
    assert f"Calibration errors are {errors[0]} (SGD) and {errors[1]} (SAM)." in RESULTS


def test_the_sharpness_that_is_told_is_that_of_the_committed_measures():
    found = {name: pages.sharpness_of(MEASURED / name, findings(name)) for name in ("noisy40", "clean5k")}

    def values(experiment, title, measure):
        its = [each.measures[measure] for each in found[experiment].solutions if each.title == title]
        assert len(its) == 5
        return its

    def median(*which):
        return statistics.median(values(*which))

    three = ("SAM", "GSAM", "ASAM")
    noisy = [f"{median('noisy40', title, 'eigenvalue_1'):.0f} for {title}" for title in (*three, "SGD")]
    losses = [f"{median('noisy40', title, 'loss'):.2f}" for title in (*three, "SGD")]
    clean = [f"{median('clean5k', title, 'eigenvalue_1'):.0f}" for title in ("SAM", "GSAM", "SGD")]
    small = [f"{median('clean5k', title, 'ascent_0.05'):.2f}" for title in ("SAM", "SGD")]
    large = [f"{median('clean5k', title, 'ascent_0.2'):.1f}" for title in ("SAM", "SGD")]
    fitted = [f"{median('clean5k', title, 'loss'):.2f}" for title in ("SGD", "SAM")]
    assert f"In `noisy40` λ₁ is {', '.join(noisy[:3])} and {noisy[3]}, and each" in RESULTS
    assert f"losses are from {min(losses[:3])} to {max(losses[:3])}, SGD's is {losses[3]}." in RESULTS
    assert f"greater λ₁, {clean[0]} and {clean[1]} against {clean[2]}." in RESULTS
    assert f"within ρ = 0.05 is {small[0]} nats for SAM and {small[1]} for SGD. Within 0.2" in RESULTS
    assert f"tuned to, it is {large[0]} against {large[1]}." in RESULTS
    assert f"(a loss of {fitted[0]}, SAM's is {fitted[1]})" in RESULTS
    in_batches = [f"{median('noisy40', title, 'batch_eigenvalue_1'):.1f}" for title in (*three, "SGD")]
    assert f"λ₁ is then {', '.join(in_batches[:3])} and {in_batches[3]} for SAM, GSAM, ASAM and SGD" in RESULTS
    in_batches = [f"{median('clean5k', title, 'batch_eigenvalue_1'):.1f}" for title in (*three, "SGD")]
    assert f"In `clean5k` it is {', '.join(in_batches[:3])} and {in_batches[3]}, and SAM's" in RESULTS
    small = [f"{median('clean5k', title, 'batch_m_sharpness_0.05'):.3f}" for title in ("SAM", "SGD")]
    large = [f"{median('clean5k', title, 'batch_m_sharpness_0.2'):.2f}" for title in ("SAM", "SGD")]
    assert f"within ρ = 0.05 ({small[0]} against {small[1]} nats), and less within 0.2 ({large[0]} against" in RESULTS
    assert f"against {large[1]}). So SAM has found" in RESULTS
    of_sgd = values("noisy40", "SGD", "eigenvalue_1")
    assert of_sgd[0] == max(of_sgd)  # the seed that is drawn
    assert min(of_sgd) > max(value for title in three for value in values("noisy40", title, "eigenvalue_1"))
    for name in ("eigenvalue_1", "trace", "ascent_0.2", "average_0.01", "batch_m_sharpness_0.2"):
        assert median("clean5k", "ASAM", name) == min(median("clean5k", title, name) for title in (*three, "SGD"))
    by_error = sorted((*three, "SGD"), key=lambda title: row_of("clean5k", title).mean)
    for name in set(found["clean5k"].names) - {"loss", "error", "batch_loss", "batch_error", "weight_norm"}:
        in_order = [median("clean5k", title, name) for title in by_error]
        assert in_order != sorted(in_order)
    for sharpness in found.values():
        assert all(each.seeds.low <= 0 <= each.seeds.high for each in sharpness.correlations.values())


def row_of(experiment, title):
    return next(row for row in findings(experiment).rows if row.title == title)


def test_the_correlations_that_are_told_are_those_of_the_committed_measures():
    shared, radii = (pages.sharpness_of(MEASURED / name, findings(name)) for name in ("noisy40_shared", "clean5k"))
    assert len(shared.solutions) == len(shared.titles()) == 25
    assert all(each.across.low <= 0 <= each.across.high for each in shared.correlations.values())
    told = in_words(shared.correlations["eigenvalue_1"].across)
    assert f"(λ₁: {told.replace(' (', ', ')}" in RESULTS
    rows = sorted(shared.solutions, key=lambda each: each.measures["eigenvalue_1"])
    flattest, between, sharpest = (list(part) for part in np.array_split(np.array(rows, dtype=object), 3))
    means = [f"{statistics.mean(each.error for each in part):.1f} %" for part in (flattest, between, sharpest)]
    without = statistics.mean(each.error for each in flattest if each.title != "LookSAM")
    assert (
        f"error of {means[0]} ({without:.1f} % without LookSAM, which did not learn), the next {means[1]}," in RESULTS
    )
    assert f"the sharpest {means[2]}." in RESULTS
    thirds = [{each.title for each in part} for part in (flattest, between, sharpest)]
    for name in ("batch_eigenvalue_1", "batch_m_sharpness_0.2"):
        rows.sort(key=lambda each: each.measures[name])
        assert [{each.title for each in part} for part in np.array_split(np.array(rows, dtype=object), 3)] == thirds
    assert [each.title for each in flattest if each.measures["loss"] < 1.8] == ["SGD, 60 epochs"]
    known = {name: each.radii for name, each in radii.correlations.items() if each.radii.groups}
    shown = [name for name, each in known.items() if each.low > 0 or each.high < 0]
    assert (len(known), shown) == (13, ["gradient_norm"])
    told = in_words(known["gradient_norm"]).replace(" (", ", ")[:-1]
    assert f"‖∇L‖, the greater the better ({told}, one seed)" in RESULTS


def same_matplotlib() -> bool:
    """Whether the committed figures were drawn by the version that is installed."""
    drawn = MEASURED / pages.ORDER[0] / "figures" / "errors.svg"
    return f"Matplotlib v{mpl.__version__}" in drawn.read_text()


@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/figures")))
def test_committed_figures_are_drawn_from_the_committed_records(experiment, tmp_path):
    if not same_matplotlib():
        pytest.skip("they were drawn by another version of matplotlib")
    found = findings(experiment)
    held_out = read_records(MEASURED / experiment / "records", "val")
    sharpness = pages.sharpness_of(MEASURED / experiment, found)
    write_figures(draw(found, held_out) | draw_sharpness(sharpness), tmp_path)
    committed = {path.name: path.read_bytes() for path in (MEASURED / experiment / "figures").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed


@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/analysis")))
def test_committed_tables_of_sharpness_are_made_from_the_committed_measures(experiment, tmp_path):
    sharpness = pages.sharpness_of(MEASURED / experiment, findings(experiment))
    write_sharpness(sharpness, experiment, tmp_path, describe_preset(experiment))
    for path in tmp_path.iterdir():
        assert (MEASURED / experiment / path.name).read_bytes() == path.read_bytes(), (
            f"{path.name} is stale: make report"
        )


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("experiment", sorted(path.parent.name for path in MEASURED.glob("*/records")))
def test_committed_tables_are_made_from_the_committed_records(experiment, split, tmp_path):
    name = "table" if split == "test" else "table-val"
    records = read_records(MEASURED / experiment / "records", split)
    compared = False
    if records:
        found = findings(experiment, split)
        compared = split == "test" and bool(found.comparison.found)
        write_table(found, experiment, tmp_path, name, describe_preset(experiment))
        if compared:
            write_comparison(found.comparison, tmp_path)
    made, kept = (
        {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.stem in ((name, "comparison") if split == "test" else (name,))
        }
        for folder in (tmp_path, MEASURED / experiment)
    )
    assert made == kept
    assert len(made) == (3 + 2 * compared if records else 0)


def test_the_table_of_costs_is_made_from_the_committed_measurements():
    (name,) = re.findall(r"`results/benchmark/([\w-]+)\.md`", README)
    data = json.loads((ROOT / "results" / "benchmark" / f"{name}.json").read_text())
    assert "\n".join(summary(data)) in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_asks_for_runs_that_are_valid(command, folder, plugins_for_now):
    (folder / "sign_sam.py").write_text(OWN_METHOD)
    words = shlex.split(command.partition("-m sam_bench")[2])
    if is_command(words[0]):
        assert words[0] in commands.COMMANDS
        return
    arguments = main.get_args_parser().parse_args(words)
    try:
        assert read_request(arguments).configs
    except ConfigError as error:  # of an extra
        extra = re.search("hydra/(?:launcher|sweeper)=(ray|slurm|optuna)", command)[1]
        assert f"pip install -e '.[{extra}]'" in str(error)


def test_a_method_of_ones_own_can_be_tuned_and_compared_as_is_said(folder, plugins_for_now):
    ranges, comparison = (
        next(block for language, block in BLOCKS if language == "yaml" and text in block)
        for text in ("optimizer.rho: [", "SignSAM: ")
    )
    for name, text in {
        "sign_sam.py": OWN_METHOD,
        "mine/tune/sign_sam.yaml": ranges,
        "mine/study/sign_sam.yaml": comparison,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    mine = Path("mine")
    trials = tuning.plan_trials("noisy40", ["sgd"], 9, []) | tuning.plan_trials(
        "noisy40", ["sign_sam"], 9, ["plugin=sign_sam.py"], config_dir=mine
    )
    rates = [[trial.settings["optimizer.base.lr"] for trial in its] for its in trials.values()]
    assert rates[0] == rates[1]
    rows = study.plan_study(Study.read(study.path_of("sign_sam", mine)), [0], (), mine)
    assert [run.title for run in rows] == ["SGD  seed 0", "SAM  seed 0", "SignSAM  seed 0"]


@pytest.mark.parametrize("preset", options("experiment"))
def test_every_preset_is_named(preset):
    assert f"`{preset}`" in README


def test_what_the_published_figures_are_not_is_said():
    section = " ".join(README.partition("## What the published figures are, and are not")[2].split())
    assert "the best of four radii on the test set (2.75, 2.69, 2.55, 2.90)" in section
    assert "unknown which settings made GSAM's 2.45" in section


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 11
