"""The error-rate table of an experiment, from its records alone: nothing is trained here, and torch is not needed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sam_bench.errors import StateError
from sam_bench.optim.registry import METHODS
from sam_bench.report.published import differences, flat, published
from sam_bench.report.stats import t_interval
from sam_bench.runs.files import write_atomically
from sam_bench.runs.record import read_record

MIB = 2**20
MEANS = ["passes", "skipped_steps", "train_seconds", "images_per_second"]
"""Entries of records that are columns, averaged over the seeds."""
COSTS = ["train_seconds", "images_per_second", "peak_memory_bytes"]
"""Entries that are averaged on one device only."""
LAST = "last"
"""What the column `weights` calls those after the last step."""

SHARED = ("batchnorm", "clip_norm", "m", "rho", "start_at", "sync_perturbation")
"""Settings of an optimizer that are not its method's own, and are compared over the whole table, as its base's are."""

SHOWN = {
    "method": ("method", ""),
    "rho": ("ρ", "g"),
    "weights": ("weights", ""),
    "settings": ("settings", ""),
    "seeds": ("seeds", ""),
    "test_error_mean": ("test error %", ".2f"),
    "test_error_std": ("std", ".2f"),
    "ci95": ("95 % interval", ""),
    "best_seed_error": ("best seed", ".2f"),
    "worst_seed_error": ("worst seed", ".2f"),
    "best_epoch_error_mean": ("best epoch", ".2f"),
    "test_loss": ("NLL", ".3f"),
    "test_ece": ("ECE %", ".2f"),
    "memorised": ("memorised %", ".1f"),
    "passes": ("passes", ",.0f"),
    "skipped_steps": ("skipped steps", ".2f"),
    "train_seconds": ("seconds", ",.0f"),
    "images_per_second": ("images/s", ",.0f"),
    "peak_memory_mib": ("peak MiB", ",.0f"),
    "published": ("published %", ".2f"),
}
"""Columns of the printed table: their headings, and the formats of their numbers."""
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}%_&#$"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "–": "--", "ρ": r"$\rho$"}
)


def read_records(folder: Path, split: str = "test") -> list[dict[str, Any]]:
    """An experiment's records of runs that were measured on one split, in the order of their names.

    Raises:
        StateError: one cannot be read.
    """
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record["config"]["data"]["split"] == split]


def make_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each set of runs that differ in nothing but the seed; errors in percent, the last epoch's.

    Averages of the weights have rows of their own, with the same cost: the column `weights` says which they are.
    Diverged runs are counted and left out of every mean. What tells the rows of one method apart stands in the column
    `settings`. Interval and deviation are NaN for a single seed; seconds and memory where the devices differ.

    Raises:
        StateError: two records are of one run.
    """
    rows = [_row(runs, average) for runs in _by_configuration(records).values() for average in (None, *_averages(runs))]
    _name_differences(rows)
    table = pd.DataFrame(rows).drop(columns="flat")
    order = ["method", "rho", "settings", "weights"]
    return table.sort_values(order, key=lambda c: c.map(_rank) if c.name == "method" else c, ignore_index=True)


def protocol(configs: list[Mapping[str, Any]], experiment: str) -> list[str]:
    """What all runs have in common, and whether they can be compared with published figures."""
    parts = [_protocol(config) for config in configs]
    common = [part for part in parts[0] if all(part in others for others in parts)]
    lines = [f"The {experiment} protocol: {', '.join(common)}."]
    reasons: dict[str, set[str]] = {}
    everyone = {config["optimizer"]["name"] for config in configs}
    for config in configs:
        method = config["optimizer"]["name"]
        for reason in differences(config):
            reasons.setdefault(reason, set()).add(method)
    texts = [
        reason if methods == everyone else f"{reason} ({', '.join(map(_title, sorted(methods, key=_rank)))})"
        for reason, methods in reasons.items()
    ]
    if texts:
        lines.append(f"Not comparable with published figures: {'; '.join(texts)}.")
    return lines


def notes(records: list[dict[str, Any]]) -> list[str]:
    """What must be known to read the table: its columns, the hardware, and where published figures are from."""
    lines = [
        "Test error of the last epoch. Interval: Student's t over the seeds. Best epoch: the least of the evaluated "
        "ones, chosen by the same images, for comparison only. NLL: negative log-likelihood in nats. ECE: calibration "
        "error, 15 bins. Passes: forward-backward passes of one run. Seconds: training alone. Means over the seeds."
    ]
    if any(_memorised(record) is not None for record in records):
        lines.append(
            "Memorised: of the training images whose labels are wrong, those that are predicted as labelled, in the "
            "last epoch: with mixup from the mixed images, for MSAM, SAMPa and bSAM at perturbed weights. The labels "
            "of the test set are the true ones; those of held-out images are not."
        )
    if any(_averages([record]) for record in records):
        lines.append(
            "Weights: those after the last step, or their mean over the epochs from a fraction of the run on (swa), or "
            "over the steps with a decay (ema), BatchNorm statistics re-estimated on the training images."
        )
    if any(record["config"]["optimizer"]["batchnorm"] == "re-estimated" for record in records):
        lines.append(
            "BatchNorm re-estimated: the weights that are evaluated had no pass of their own (MSAM's, SAMPa's "
            "and bSAM's passes are all at perturbed weights, a schedule-free base is evaluated at an average), so the "
            "statistics are those of a pass over the training images before the evaluation, forward only."
        )
    for device in _distinct(f"{record['device']}, {record['precision']}" for record in records):
        lines.append(f"Measured on: {device}.")
    of_methods = sorted(records, key=lambda record: (_rank(record["method"]), record["config"]["model"]["name"]))
    for figure in _distinct(published(record["config"]) for record in of_methods):
        if figure:
            text = f"Published, not measured here: {_title(figure.method)} {figure.error:.2f} on {figure.model}"
            lines.append(f"{text}, from {figure.source} ({figure.caveat}).")
    return lines


def write_table(
    records: list[dict[str, Any]], experiment: str, folder: Path, name: str = "table", about: str = ""
) -> str:
    """Write the table's `.csv` (every column, unrounded), `.md` and `.tex` to `folder`; returns the Markdown.

    Args:
        about: what is said first.
    """
    table = make_table(records)
    above = [*([about] if about else []), *protocol([record["config"] for record in records], experiment)]
    below = notes(records)
    cells = [[_cell(row, column) for column in _columns(table)] for _, row in table.iterrows()]
    headings = [SHOWN[column][0] for column in _columns(table)]
    text = "\n\n".join([f"# {experiment}", *above, markdown(headings, cells), *below]) + "\n"
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False).encode())
    write_atomically(folder / f"{name}.md", text.encode())
    write_atomically(folder / f"{name}.tex", _latex(headings, cells, above + below).encode())
    return text


def _by_configuration(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(json.dumps(_settings(record), sort_keys=True), []).append(record)
    return groups


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is, but for its seed."""
    config = {key: value for key, value in record["config"].items() if key != "seed"}
    return flat(config | {"dataset_sha256": record["dataset_sha256"]})


def _averages(runs: list[dict[str, Any]]) -> list[str]:
    return _distinct(name for run in runs for name in run.get("averaged", {}))


def _row(runs: list[dict[str, Any]], average: str | None) -> dict[str, Any]:
    """A row of runs that differ in nothing but the seed, of their last weights or of an average."""
    finished = [run for run in runs if run["status"] == "finished"]
    seeds = [run["seed"] for run in runs]
    method = runs[0]["method"]
    if len(set(seeds)) < len(seeds):
        raise StateError(f"there are several records of {method} with one seed: {sorted(seeds)}; keep one each")
    measured = [run if average is None else run["averaged"][average] for run in finished]
    errors = pd.Series([of_run["test_error"] for of_run in measured], dtype=float)
    calibration = pd.DataFrame(measured, columns=["test_loss", "test_ece"], dtype=float).mean()
    memorised = pd.Series([_memorised(run) for run in finished if average is None], dtype=float)
    low, high = t_interval(list(errors))
    means = pd.DataFrame(finished, columns=["best_test_error", "peak_memory_bytes", *MEANS], dtype=float).mean()
    if len({run["device"] for run in runs}) > 1:
        means[COSTS] = math.nan
    figure = published(runs[0]["config"]) if average is None else None
    return {
        "method": method,
        "rho": runs[0]["config"]["optimizer"].get("rho"),
        "weights": average or LAST,
        "settings": "",
        "seeds": len(finished),
        "test_error_mean": errors.mean(),
        "test_error_std": errors.std(ddof=1),
        "ci95_low": low,
        "ci95_high": high,
        "best_seed_error": errors.min(),
        "worst_seed_error": errors.max(),
        "best_epoch_error_mean": means["best_test_error"] if average is None else math.nan,
        **calibration,
        "memorised": memorised.mean(),
        "diverged": len(runs) - len(finished),
        **means[MEANS],
        "peak_memory_mib": means["peak_memory_bytes"] / MIB,
        "published": figure.error if figure else None,
        "published_differs": "; ".join(differences(runs[0]["config"])) if figure else "",
        "flat": _settings(runs[0]),
    }


def _memorised(record: Mapping[str, Any]) -> float | None:
    """The percentage of the wrong training labels that a run's last epoch predicts; None without wrong labels."""
    missed = record["history"].get("wrong_label_error", [None])[-1]
    return None if missed is None else 100 - missed


def _name_differences(rows: list[dict[str, Any]]) -> None:
    """A method's own settings, and averaging, are compared within the method, all others over the whole table."""
    keys = _distinct(key for row in rows for key in row["flat"] if key != "optimizer.rho")
    for row in rows:
        shown = row["flat"] | {"dataset_sha256": row["flat"]["dataset_sha256"][:8]}
        row["settings"] = " ".join(
            f"{key.removeprefix('optimizer.')}={shown[key]}"
            for key in keys
            if key in shown and len({json.dumps(peer.get(key)) for peer in _peers(row, key, rows)}) > 1
        )


def _peers(row: dict[str, Any], key: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings of the rows with which one is compared in a setting."""
    if key in ("optimizer.m", "optimizer.sync_perturbation"):  # the same for all that have a second pass
        return [other["flat"] for other in rows if key in other["flat"]]
    group, _, name = key.partition(".")
    own = group == "averaging" or (group == "optimizer" and not name.startswith("base.") and name not in SHARED)
    return [other["flat"] for other in rows if not own or other["method"] == row["method"]]


def _protocol(config: Mapping[str, Any]) -> list[str]:
    model = config["model"]
    data = config["data"]
    trainer = config["trainer"]
    base = config["optimizer"]["base"]
    images = f"{data['train_subset']:,} training images" if data.get("train_subset") else "all training images"
    crop = f"crop ({data['padding']} padding)" if "padding" in data else "crop"
    names = {"crop": crop, "flip": "flip", "cutout": "cutout"}
    augmentation = [name for key, name in names.items() if data[key]]
    augmentation += [f"mixup {data['mixup']:g}"] if "mixup" in data else []
    start = config["schedule"].get("warmup_start", 0)
    late = config["optimizer"].get("start_at", 0)
    return [
        model.get("arch") or model["name"],
        data["name"],
        images,
        *([f"label noise {data['label_noise']:g} over {data['noise_over']}"] if "label_noise" in data else []),
        f"{data['split']} split",
        f"augmentation {' + '.join(augmentation) or 'none'}",
        "normalised" if data["normalise"] else "not normalised",
        f"{trainer['epochs']} epoch{'s' if trainer['epochs'] > 1 else ''}",
        f"batch {trainer['batch_size']}",
        f"{config['schedule']['name']} schedule by the {config['schedule']['every']}",
        f"warm-up {config['schedule']['warmup_epochs']:g}" + (f" from {start:g} of the rate" if start else ""),
        *([f"the method from {late:g} of the run on"] if late else []),
        f"base optimizer {base['name']}",
        *(f"{key} {value}" for key, value in base.items() if key != "name"),
        f"label smoothing {trainer['label_smoothing']:g} over {trainer['smoothing_over']}",
        f"BatchNorm {config['optimizer']['batchnorm']}",
    ]


def _columns(table: pd.DataFrame) -> list[str]:
    """Those that say something: the settings where rows differ in them, and what was measured."""
    says = {"settings": table["settings"].any(), "skipped_steps": table["skipped_steps"].any()}
    says |= {name: table[name].notna().any() for name in ("test_ece", "memorised", "published")}
    says["weights"] = (table["weights"] != LAST).any()
    return [column for column in SHOWN if says.get(column, True)]


def _cell(row: pd.Series, column: str) -> str:
    if column == "method":
        return _title(row["method"])
    if column == "seeds":
        return f"{row['seeds']}" + (f" (+{row['diverged']} diverged)" if row["diverged"] else "")
    if column == "ci95":
        return "–" if pd.isna(row["ci95_low"]) else f"{row['ci95_low']:.2f} – {row['ci95_high']:.2f}"
    return "–" if pd.isna(row[column]) else format(row[column], SHOWN[column][1])


def markdown(headings: list[str], cells: list[list[str]]) -> str:
    """Return a table in Markdown, its columns as wide as their cells."""
    widths = [max(len(line[i]) for line in [headings, *cells]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def _latex(headings: list[str], cells: list[list[str]], remarks: list[str]) -> str:
    comments = [f"% {remark}" for remark in remarks]
    heading, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in [headings, *cells])
    begin = f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    return "\n".join([*comments, begin, r"\hline", heading, r"\hline", *body, r"\hline", r"\end{tabular}", ""])


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


def _rank(method: str) -> int:
    """A method's place in the registry, which is its place in a table."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def _distinct(values) -> list[Any]:
    return list(dict.fromkeys(values))
