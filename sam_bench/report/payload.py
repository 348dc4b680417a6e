"""The data of the results page: JSON-able, and the same for the same records."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sam_bench.report.across import Line, in_words
from sam_bench.report.comparison import EPOCHS, PASSES, REFERENCE, Comparison, difference
from sam_bench.report.differences import UNDECIDED, Difference
from sam_bench.report.drawing import INK
from sam_bench.report.rows import Record, Row, memorised, memorised_by_epoch, own_settings
from sam_bench.report.sharpness import Sharpness, correlation_table
from sam_bench.report.study import Study
from sam_bench.report.table import Findings, protocol
from sam_bench.runs.record import flat

#: The title of each figure, and a description of what it shows.
CAPTIONS = {
    "errors": (
        "Test error of every seed, and training time",
        "the mean as a line, Student's 95 % interval as a bar, time in that of SGD",
    ),
    "differences": ("Differences", "with simultaneous intervals, hollow where undecided, the margin as a band"),
    "curves": ("Over the epochs", "means over the seeds, and bands from the least to the greatest"),
    "radius": ("Error against the radius", "on held-out images, SGD's as a line"),
    "sharpness": ("Sharpness of every solution", "on training images, the median of a row as a line"),
    "explains": ("Test error against sharpness", "a point for each solution"),
    "landscape": (
        "How the training loss rises around solutions",
        "along two random directions, normalised filter by filter; behind each name the solution's own loss",
    ),
    "slices": ("Slices of the training loss", "through solutions, and from one to another"),
    "sharpening": ("Sharpness over the epochs", "of runs that were measured while they trained"),
}


def page_payload(
    regimes: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
    lines: Sequence[Line],
    false_claims: float,
    answers: str,
    figures: Mapping[str, str],
) -> dict[str, Any]:
    """Return the data of the whole page.

    Args:
        regimes: what `regime` returned for each study, in order.
        versions: the versions of the software and the data, and the number of runs, by name.
        lines: the comparisons of all studies, with a cell for each regime in their order.
        false_claims: the most false verdicts to expect on the page.
        answers: the text at the head of the page.
        figures: SVG documents that this text shows, by path.
    """
    return {
        "title": "Sharpness-aware optimizers, compared",
        "answers": answers,
        "figures": {path: _recoloured(svg) for path, svg in figures.items()},
        "version": dict(versions),
        "across": [
            {
                "title": line.title,
                "cells": [each and _difference(each) for each in line.cells.values()],
                "average": line.pooled and {"text": in_words(line.pooled), "verdict": line.pooled.verdict},
                "heterogeneity": line.heterogeneity,
            }
            for line in lines
        ],
        "false_claims": f"{false_claims:.2f}",
        "regimes": list(regimes),
    }


def _planned(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the planned comparisons that have runs, in order."""
    return [
        {
            "text": f"{row.title} − {base.title}{comparison.equal_in((row, base))}: {difference(each)} points",
            "verdict": each.verdict or UNDECIDED,
        }
        for row, base in comparison.planned
        if (each := comparison.differences.get((row, base)))
    ]


def regime(
    study: Study, findings: Findings, figures: Mapping[str, str], about: str = "", sharpness: Sharpness | None = None
) -> dict[str, Any]:
    """Return the data of a study's part of the page.

    Args:
        figures: SVG documents, by name.
        about: a description of its preset.
        sharpness: what was measured around its solutions.
    """
    rows = {row.title: row for row in findings.rows}
    prominent = _prominent(findings)
    configs = [record["config"] for record in findings.records]

    return {
        "name": study.experiment,
        "title": study.title,
        "about": " ".join(filter(None, [about, protocol(configs, study.experiment)])),
        "statements": _planned(findings.comparison),
        "notes": findings.remarks(),
        "sharpness": sharpness and _correlations(sharpness),
        "figures": [_figure(name, figures[name]) for name in CAPTIONS if name in figures],
        "columns": _columns(findings),
        "rows": [
            _row(study, findings, rows[title], rows[title] in prominent) if title in rows else _not_run(study, title)
            for title in study.rows
        ],
    }


def _figure(name: str, svg: str) -> dict[str, str]:
    title, alt = CAPTIONS[name]
    return {"name": name, "title": title, "alt": f"{title}: {alt}.", "svg": _recoloured(svg)}


def _recoloured(svg: str) -> str:
    """Return a figure whose ink and paper have the colours of the page's."""
    return svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: var(--paper)")


def _correlations(sharpness: Sharpness) -> dict[str, Any] | None:
    """Return the table of the shown measures' correlations with the test error; None if none is known."""
    known = [
        name
        for name in sharpness.shown_names()
        if not all(math.isnan(each.value) for each in sharpness.correlations[name])
    ]
    if not known:
        return None
    headings, cells = correlation_table(sharpness, known)
    return {"headings": headings, "cells": cells}


def _columns(findings: Findings) -> list[dict[str, Any]]:
    """Return the columns of a study's table; comparisons and some measures only if a row has them."""
    comparison = findings.comparison
    kinds = {
        EPOCHS: "Test error minus that of SGD with as many epochs, in points ± half the simultaneous interval.",
        PASSES: "The same, to SGD with as many passes.",
        REFERENCE: f"The same, to {comparison.reference.title}." if comparison.reference else "",
    }

    columns = [
        {"key": "rho", "title": "ρ", "help": "The radius of the perturbation.", "digits": None},
        {"key": "error", "title": "test error %", "help": "Mean over the seeds ± half its interval.", "digits": 2},
        *(
            [{"key": "tta", "title": "with TTA %", "help": "The same, with test-time augmentation.", "digits": 2}]
            if any(row.tta_errors for row in findings.rows)
            else []
        ),
        *(
            {"key": kind, "title": comparison.heading(kind), "help": text, "digits": 2}
            for kind, text in kinds.items()
            if kind in comparison.kinds
        ),
        {"key": "train_error", "title": "training error %", "help": "In the last epoch, as trained.", "digits": 1},
        {"key": "memorised", "title": "memorised %", "help": "Wrong training labels predicted.", "digits": 1},
        {"key": "test_ece", "title": "ECE %", "help": "Calibration error, 15 bins.", "digits": 2},
        {"key": "test_loss", "title": "NLL", "help": "Negative log-likelihood in nats.", "digits": 3},
        {"key": "passes", "title": "passes", "help": "Forward-backward passes of one run.", "digits": 0},
        {"key": "cost", "title": "cost", "help": "Training time over SGD's.", "digits": 2},
        {"key": "seeds", "title": "seeds", "help": "Runs that finished.", "digits": 0},
    ]
    sometimes = ("train_error", "memorised", "test_ece")
    return [column for column in columns if column["key"] not in sometimes or findings.has(column["key"])]


def _prominent(findings: Findings) -> Sequence[Row]:
    """Return the rows whose curves are shown first: the planned ones and the best, or the first five without a plan."""
    planned = [row for pair in findings.comparison.planned for row in pair]
    return [*planned, min(findings.rows, key=lambda row: row.mean)] if planned else findings.rows[:5]


def _row(study: Study, findings: Findings, row: Row, prominent: bool) -> dict[str, Any]:
    means = row.means
    radius = {} if row.rho is None else {"ρ": f"{row.rho:g}"}
    cells = {
        "rho": _cell(row.rho, "g"),
        "error": _cell(row.mean, ".2f") | {"text": row.error_in_words},
        "tta": _cell(row.tta_mean, ".2f") | {"text": row.tta_error_in_words},
        **{kind: _difference(findings.comparison.at(kind, row)) for kind in findings.comparison.kinds},
        "train_error": _cell(means["train_error"], ".1f"),
        "memorised": _cell(means["memorised"], ".1f"),
        "test_ece": _cell(means["test_ece"], ".2f"),
        "test_loss": _cell(means["test_loss"], ".3f"),
        "passes": _cell(means["passes"], ",.0f"),
        "cost": _cell(findings.relative_cost(row), ".2f"),
        "seeds": _cell(len(row.errors), "d", row.diverged_in_words),
    }

    return {
        **_identity(study, row.title),
        "optimizer": row.method,
        "status": "measured",
        "cells": cells,
        "settings": radius | {key: str(value) for key, value in own_settings(row, findings.rows).items()},
        "prominent": prominent,
        "seeds": [_seed(study, row, run) for run in row.runs],
    }


def _not_run(study: Study, title: str) -> dict[str, Any]:
    overrides = dict(override.split("=", 1) for override in study.rows[title] if "=" in override)
    return {
        **_identity(study, title),
        "optimizer": overrides.get("optimizer", ""),
        "status": "not run",
        "cells": {},
        "settings": overrides,
        "prominent": False,
        "seeds": [],
    }


def _identity(study: Study, title: str) -> dict[str, str]:
    """Return a row's id, title and the command that runs all of its seeds."""
    seeds = ",".join(map(str, study.seeds))
    command = f"python -m sam_bench -m {' '.join(study.overrides(title))} seed={seeds}"
    return {"id": re.sub(r"\W+", "-", title.lower()).strip("-"), "title": title, "command": command}


def _seed(study: Study, row: Row, run: Record) -> dict[str, Any]:
    finished = run["status"] == "finished"
    history = run["history"]
    kept = {key: history[key] for key in ("test_error", "train_error", "train_loss") if key in history}
    if row.is_average:  # the history is that of the last weights
        kept.pop("test_error", None)
    if memorised(run) is not None:
        kept["memorised"] = memorised_by_epoch(run)

    return {
        "seed": run["seed"],
        "status": run["status"],
        "error": row.errors.get(run["seed"]) if finished else None,
        "run_id": run["run_id"],
        "command": f"python -m sam_bench {' '.join(study.overrides(row.title))} seed={run['seed']}",
        "settings": {key: str(value) for key, value in flat(run["config"]).items()},
        "versions": {key: str(value) for key, value in run["versions"].items() if value is not None},
        "device": f"{run['device']}, {run['precision']}",
        "commit": run["git_commit"] or "",
        "history": kept,
    }


def _cell(value: float | None, form: str, after: str = "") -> dict[str, Any]:
    known = value is not None and value == value  # NaN is not equal to itself
    return {
        "value": float(value) if known else None,
        "text": f"{value:{form}}{after}" if known else "–",
        "verdict": None,
    }


def _difference(each: Difference | None) -> dict[str, Any]:
    if each is None:
        return _cell(None, "")
    return {"value": each.mean, "text": difference(each), "verdict": each.verdict}
