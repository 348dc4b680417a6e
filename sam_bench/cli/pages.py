"""The tables and figures of experiments, and the pages of the project that are made from all of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median

from sam_bench.cli.conf_folder import CHECKOUT, choices, describe_preset
from sam_bench.cli.tables import BENCHMARKS, findings
from sam_bench.report.across import across, as_markdown, false_claims, write_across
from sam_bench.report.comparison import write_comparison
from sam_bench.report.estimate import SEEDS, SHARE, Estimate, not_run
from sam_bench.report.figures import as_bytes, draw, write_figures
from sam_bench.report.forest import forest
from sam_bench.report.markup import markdown, replace_generated
from sam_bench.report.page import page
from sam_bench.report.payload import page_payload, regime
from sam_bench.report.published import PUBLISHED, is_of_protocol, published_table
from sam_bench.report.record_table import record_table
from sam_bench.report.rows import Row, distinct, rows_of
from sam_bench.report.sharpness import Sharpness, read_sharpness, write_sharpness
from sam_bench.report.sharpness_figures import draw_sharpness
from sam_bench.report.study import Study
from sam_bench.report.table import Findings, protocol, read_records, write_table
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import read_record

#: The benchmark from which costs are estimated.
BENCHMARK = BENCHMARKS / "amd-epyc-2-threads.json"

#: Order of the studies; others follow these. docs/findings.md shows the table of the first.
ORDER = ("noisy40", "noisy40_draws", "noisy40_shared", "noisy40_aug", "clean5k", "clean5k_tuned", "clean5k_aug")

#: The command in the comments around a generated part of a file.
COMMAND = "make report"


def write_results(folder: Path) -> Findings | None:
    """Write the tables, the comparison and the figures of an experiment, and return the findings of its test runs.

    Returns None if no run was evaluated on the test set.
    """
    experiment = folder.name
    about = describe_preset(experiment)
    held_out, records = (read_records(folder / "records", split) for split in ("val", "test"))
    if held_out:
        write_table(findings(experiment, held_out), experiment, folder, "table-val", about)
    if not records:
        return None

    test_findings = findings(experiment, records)
    write_table(test_findings, experiment, folder, "table", about)
    if test_findings.comparison.differences:
        write_comparison(test_findings.comparison, folder)
    sharpness = sharpness_of(folder, test_findings)
    if sharpness.solutions:
        write_sharpness(sharpness, experiment, folder, about)

    figures = draw(test_findings, held_out) if experiment in choices("study") else {}
    if figures := figures | draw_sharpness(sharpness):
        write_figures(figures, folder / "figures")
    return test_findings


@cache
def sharpness_of(folder: Path, test_findings: Findings) -> Sharpness:
    """Return the sharpness that was measured around the weights of an experiment's runs."""
    held_out, records = (read_records(folder / "records", split) for split in ("val", "test"))
    return read_sharpness(folder, records, (*test_findings.rows, *test_findings.others), rows_of(held_out))


def write_pages(measured: Path, by_experiment: Mapping[str, Findings]) -> None:
    """Write the pages about all studies, and the generated parts of docs/findings.md and results/README.md.

    Args:
        measured: the checkout's folder with a folder for each experiment.
        by_experiment: the findings of each experiment that has runs on the test set.
    """
    rows = [row for found in by_experiment.values() for row in (*found.rows, *found.others)]
    write_atomically(measured / "published.md", published(rows).encode())
    write_atomically(measured / "records.csv", record_table(measured).to_csv(index=False).encode())
    write_forest(measured, by_experiment)
    write_atomically(measured / "index.html", index(measured, by_experiment).encode())

    folders = sorted(path.parent for path in measured.glob("*/records"))
    for path, content in (
        (CHECKOUT / "docs" / "findings.md", opening(by_experiment)),
        (CHECKOUT / "results" / "README.md", what_was_run(folders)),
    ):
        write_atomically(path, replace_generated(path.read_text(encoding="utf-8"), content, COMMAND).encode())


def index(measured: Path, by_experiment: Mapping[str, Findings]) -> str:
    """Return the HTML page of all studies that have runs, with the figures from their folders."""
    drawings = {path.relative_to(measured): path.read_text(encoding="utf-8") for path in measured.rglob("*.svg")}
    regimes = []
    shown_studies = studies(by_experiment)
    for study in shown_studies:
        folder = measured / study.experiment
        own = Path(study.experiment, "figures")
        figures = {path.stem: drawing for path, drawing in drawings.items() if path.parent == own}
        study_findings = by_experiment[study.experiment]
        sharpness = sharpness_of(folder, study_findings)
        regimes.append(regime(study, study_findings, figures, describe_preset(study.experiment), sharpness))

    records = [record for study in shown_studies for record in by_experiment[study.experiment].records]
    versions = {
        name: ", ".join(distinct(record["versions"][name] for record in records)) for name in ("sam_bench", "torch")
    }
    versions |= {
        "data": ", ".join(data_of(by_experiment[study.experiment] for study in shown_studies)),
        "runs": str(len(records)),
    }
    compared = of_studies(by_experiment)
    lines = across(compared)
    answers = (measured / "answers.md").read_text(encoding="utf-8")
    by_path = {path.as_posix(): drawing for path, drawing in drawings.items()}
    return page(page_payload(regimes, versions, lines, false_claims(compared, lines), answers, by_path))


def write_forest(measured: Path, by_experiment: Mapping[str, Findings]) -> None:
    """Write the comparisons of all studies, with their averages, as tables and as two forest plots.

    One compares with SAM, the other with SGD.
    """
    titles = {study.experiment: study.title for study in studies(by_experiment)}
    compared = of_studies(by_experiment)
    lines = across(compared)
    write_across(lines, false_claims(compared, lines), measured)
    against_sam = [line for line in lines if line.base == "SAM"]
    against_sgd = [line for line in lines if line.base != "SAM"]
    for name, shown in (("sgd", against_sgd), ("sam", against_sam)):
        if figure := forest(shown, titles):
            for kind in ("svg", "png"):
                write_atomically(measured / f"against_{name}.{kind}", as_bytes(figure, kind))


def data_of(all_findings: Iterable[Findings]) -> list[str]:
    """Return the data sets of studies with their digests, or with the number of draws if each seed has its own draw."""
    data_sets = []
    for study_findings in all_findings:
        names = distinct(f"{record['dataset']} {record['dataset_sha256'][:8]}" for record in study_findings.records)
        has_draws = any(row.is_of_draws for row in study_findings.rows)
        data_sets += [f"{study_findings.records[0]['dataset']} in {len(names)} draws"] if has_draws else names
    return distinct(data_sets)


def studies(by_experiment: Mapping[str, Findings]) -> list[Study]:
    """Return the studies of `conf/study` that have runs, in the order of `ORDER`."""
    files = choices("study")
    return [Study.read(files[name]) for name in distinct([*ORDER, *files]) if name in by_experiment and name in files]


def of_studies(by_experiment: Mapping[str, Findings]) -> dict[str, Findings]:
    """Return the findings of the studies alone, in the order of `ORDER`."""
    return {study.experiment: by_experiment[study.experiment] for study in studies(by_experiment)}


def opening(by_experiment: Mapping[str, Findings]) -> str:
    """Return the generated part of docs/findings.md: the findings of all studies, and the table of the first one."""
    shown_studies = studies(by_experiment)
    first = shown_studies[0]
    first_findings = by_experiment[first.experiment]
    folder = f"../results/measured/{first.experiment}"

    compared = {name: each for name, each in of_studies(by_experiment).items() if each.comparison.differences}
    parts = [
        "\n".join(runs_of(study, by_experiment[study.experiment]) for study in shown_studies),
        "![Differences to SGD in all studies, and their averages](../results/measured/against_sgd.png)",
        "![Differences to SAM in all studies, and their averages](../results/measured/against_sam.png)",
        as_markdown(across(compared)),
        f"**{first.title}** (`{first.experiment}`):",
        f"![Differences to SGD and to SAM with their intervals]({folder}/figures/differences.png)",
        markdown(*first_findings.for_reading()),
        protocol([record["config"] for record in first_findings.records], first.experiment),
    ]
    return "\n\n".join(parts)


def runs_of(study: Study, results: Findings) -> str:
    """Return a list item with a study's title and the number of its runs."""
    lost = sum(row.diverged for row in results.rows)
    runs = f"{len(results.records)} of {len(study.rows) * len(study.seeds)} runs{f', {lost} diverged' if lost else ''}"
    return f"- [`{study.experiment}`](../results/measured/{study.experiment}/table.md): {study.title} ({runs})"


def what_was_run(folders: Sequence[Path]) -> str:
    """Return the generated part of results/README.md.

    It has the runs of each experiment with their hours and devices, and estimates of what was not run.
    """
    cells = []
    everything = []
    for folder in folders:
        runs = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
        held_out = sum(run["config"]["data"]["split"] == "val" for run in runs)
        hours = sum((run["train_seconds"] or 0) + (run["eval_seconds"] or 0) for run in runs) / 3600
        devices = "; ".join(distinct(run["device"] for run in runs))
        cells.append([f"`{folder.name}`", str(len(runs) - held_out), str(held_out), f"{hours:.1f}", devices])
        everything += runs

    table = markdown(["experiment", "runs", "runs on held-out images", "hours, added up", "on"], cells)
    estimate = Estimate(json.loads(BENCHMARK.read_text(encoding="utf-8")))
    ratios = estimate.over_measured(everything)
    method_note = (
        f"Estimated, for {SEEDS} seeds. For {estimate.device} from its benchmark: of the {len(ratios)} runs above that "
        f"were made on it the estimate is {median(ratios):.2f} times the measured seconds in the median, and from "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}; the least are of runs beside other work. For the GPUs from "
        f"{SHARE[0]:.0%} to {SHARE[1]:.0%} of what they can do at most, and a millisecond a pass at least: "
        "assumptions, as nothing was measured on one."
    )
    measured = [
        (figure.method, figure.model)
        for figure in PUBLISHED
        if any(is_of_protocol(run["config"], figure) for run in everything)
    ]
    return f"{table}\n\n{not_run(estimate, measured)}\n\n{method_note}"


def published(rows: Sequence[Row]) -> str:
    """Return the page of published results."""
    last_epoch_rows = [row for row in rows if not row.is_average]
    return f"# Published figures\n\n{published_table(last_epoch_rows)}\n"
