"""Measurements around the weights of finished runs: of sharpness, or of slices through the loss."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from sam_bench.analysis.landscape import filter_normalised, line, plane
from sam_bench.analysis.measure import measure
from sam_bench.analysis.objective import Objective
from sam_bench.cli.compose import compose
from sam_bench.cli.tables import findings
from sam_bench.config.analysis import AnalysisConfig
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError, StateError
from sam_bench.lookup import lookup
from sam_bench.report.rows import Record
from sam_bench.runs.files import write_atomically
from sam_bench.runs.finished import check_analysable, digest_of, images_of, kept_weights, network_of
from sam_bench.runs.provenance import code_versions
from sam_bench.runs.record import SCHEMA_VERSION, as_json, read_record
from sam_bench.runtime.device import Hardware

#: Seeds of the random directions.
SEEDS = (0, 1)

#: Entries that must be equal for an analysis file to be kept.
DECIDING = ("schema_version", "run_ids", "test_errors", "weights_sha256", "images_sha256", "settings")


@dataclass(frozen=True)
class Slice:
    """A slice through the loss landscape.

    Args:
        kind: "line" or "plane", through a solution along one or two random directions, or "between" two solutions.
        points: number of points along each direction. Odd, so that the solution itself is one of them.
        span: how far the slice goes to each side, in lengths of the direction. Not used between two solutions.
    """

    kind: str
    points: int
    span: float

    def steps(self) -> list[float]:
        """Return the position of each point along the direction."""
        last = self.points - 1
        if self.kind == "between":
            return [i / last for i in range(self.points)]
        return [self.span * (2 * i - last) / last for i in range(self.points)]


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Args:
        folder: the results folder of its experiment.
    """

    record: Record
    folder: Path


def select_runs(results: Path, what: str, rows: str, seeds: Sequence[int]) -> list[list[Finished]]:
    """Return the finished runs to analyse, in groups: one of several for `run=RUN_ID,RUN_ID`, else one of each run.

    Args:
        results: folder with a folder for each experiment.
        what: "experiment=NAME", or "run=" and run IDs separated by commas.
        rows: row titles of the experiment, separated by semicolons; empty for all runs.
        seeds: seeds of the experiment; empty for all.

    Raises:
        ConfigError: `what` is neither of the two, there are no such runs, or rows or seeds were given for a run.
    """
    kind, _, name = what.partition("=")
    if kind == "experiment" and name:
        return [[run] for run in chosen(results / name, name, rows, seeds)]
    if kind == "run" and name and not rows and not seeds:
        return [[find(results, run_id) for run_id in name.split(",")]]
    raise ConfigError(f"{what} is not possible here: use run=RUN_ID without --rows and --seeds, or experiment=NAME")


def chosen(folder: Path, experiment: str, rows: str, seeds: Sequence[int]) -> list[Finished]:
    """Return the finished runs of an experiment's rows and seeds that can be analysed.

    Args:
        folder: the experiment's results folder.
        rows: row titles separated by semicolons; empty for all runs.
        seeds: empty for all seeds.

    Raises:
        ConfigError: the experiment has no row of a given title, or no run of these rows and seeds.
    """
    records = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]

    if rows:
        runs: dict[str, list[Record]] = {}
        for split in ("test", "val"):
            if split_records := [record for record in records if record["config"]["data"]["split"] == split]:
                for row in findings(experiment, split_records).rows:
                    runs.setdefault(row.title, []).extend(row.runs)
        titles = [title.strip() for title in rows.split(";")]
        for title in titles:
            lookup(runs, title, "row")
        records = [record for title in titles for record in runs[title]]

    selected = [record for record in records if not seeds or record["seed"] in seeds]
    if not selected:
        raise ConfigError(f"{folder / 'records'} has no finished runs of these rows and seeds")

    runs = []
    for record in selected:
        try:
            check_analysable(record)
        except StateError as error:
            print(f"Left out: {error}")
        else:
            runs.append(Finished(record, folder))
    return runs


def find(results: Path, run_id: str) -> Finished:
    """Return the run with this ID, from any experiment.

    Raises:
        ConfigError: no experiment has a record of the run, or several have one.
    """
    paths = sorted(results.rglob(f"records/{run_id}.json"))
    matches = [path for path in paths if "measured" not in path.relative_to(results).parts]
    if len(matches) != 1:
        raise ConfigError(
            f"there are {len(matches)} records {run_id}.json below {results}, but there must be exactly one"
        )
    return Finished(read_record(matches[0]), matches[0].parents[1])


def analyse(runs: Sequence[Finished], config: Config, loss_slice: Slice | None, progress: Progress) -> Path:
    """Analyse a run, or the line between two, and return the path of the file with the results.

    An analysis that is already on the disk is not repeated.

    Raises:
        UserError: the weights or the data are missing, the two runs differ in network or training images, or a file
            from other weights, images or settings is in the way.
    """
    records = [run.record for run in runs]
    first = records[0]
    for record in records:
        check_analysable(record)
        if comparable(record) != comparable(first):
            raise ConfigError(f"{record['run_id']} and {first['run_id']} differ in network or training images")

    hardware = Hardware.choose(config.trainer.device, "fp32")
    hardware.configure(deterministic=False)
    weights = [kept_weights(run.record, run.folder, config.paths.runs_of(run.record["experiment"])) for run in runs]
    data = compose([f"data={first['dataset']}", f"data.root={config.data.root}"]).data
    images = images_of(first, data, config.analysis, hardware)

    folder = runs[0].folder
    request = {
        "schema_version": SCHEMA_VERSION,
        "run_ids": [item["run_id"] for item in records],
        "test_errors": [item["test_error"] for item in records],
        "weights_sha256": [digest_of(item) for item in weights],
        "images_sha256": images.sha256,
        "settings": settings_of(config.analysis, loss_slice),
    }
    name = "-".join(request["run_ids"])
    if loss_slice is None:
        suffix = "-batch" if config.analysis.batchnorm == "batch" else ""
        path = folder / "analysis" / f"{name}{suffix}.json"
    else:
        path = folder / "landscape" / f"{loss_slice.kind}-{name}.json"
    if path.exists():
        check_same(path, request)
        return path

    networks = [
        network_of(record, state, data.spec.classes).to(hardware.device)
        for record, state in zip(records, weights, strict=True)
    ]
    started = time.perf_counter()
    if loss_slice is None:
        measures = measure(networks[0], images, config.analysis)
        # JSON has no infinity.
        results = {"measures": {name: "inf" if value == math.inf else value for name, value in measures.items()}}
    else:
        batchnorm = request["settings"]["batchnorm"]
        objectives = [
            Objective(network, images.inputs, images.labels, config.analysis.batch_size, batchnorm)
            for network in networks
        ]
        results = landscape(objectives, loss_slice, progress)
    seconds = time.perf_counter() - started

    results = request | results | {"seconds": seconds, "device": hardware.name, **code_versions("scipy")}
    write_atomically(path, as_json(results))
    return path


def comparable(record: Record) -> tuple[Any, ...]:
    """Return what two runs must have in common for a line between their weights: training images and network."""
    return record["dataset_sha256"], record["config"]["model"]


def settings_of(config: AnalysisConfig, loss_slice: Slice | None) -> dict[str, Any]:
    """Return the settings that the result depends on, as JSON values."""
    settings = config.model_dump(mode="json", exclude={"name", "every"})
    if loss_slice is None:
        return settings
    shared = {key: settings[key] for key in ("images", "batch_size", "batchnorm")}
    if loss_slice.kind == "between":
        return asdict(loss_slice) | shared | {"batchnorm": "reestimated", "span": None}
    return asdict(loss_slice) | shared | {"direction_seeds": list(SEEDS)[: 2 if loss_slice.kind == "plane" else 1]}


def landscape(objectives: Sequence[Objective], loss_slice: Slice, progress: Progress) -> dict[str, Any]:
    """Return losses and errors along a slice: one number per step; in a plane, one row of numbers per step."""
    objective = objectives[0]
    w = objective.weights
    steps = loss_slice.steps()
    task = progress.add_task("points", total=len(steps) ** (2 if loss_slice.kind == "plane" else 1))

    def show_progress(done: int) -> None:
        progress.update(task, completed=done)

    if loss_slice.kind == "plane":
        first, second = (filter_normalised(objective, w, seed) for seed in SEEDS)
        rows = plane(objective, w, (first, second), steps, show_progress)
        losses, errors = ([[value[i] for value in row] for row in rows] for i in (0, 1))
    else:
        direction = (
            objectives[1].weights - w if loss_slice.kind == "between" else filter_normalised(objective, w, SEEDS[0])
        )
        losses, errors = ([value[i] for value in line(objective, w, direction, steps, show_progress)] for i in (0, 1))
    progress.remove_task(task)
    return {"steps": steps, "losses": losses, "errors": errors}


def check_same(path: Path, request: dict[str, Any]) -> None:
    """Check that an existing file was made from the requested weights, images and settings.

    Raises:
        StateError: one of the `DECIDING` entries differs, or the file is not JSON.
    """
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(f"{path} is not valid JSON: move it away to create it again") from error
    for key in DECIDING:
        if existing.get(key) != request[key]:
            raise StateError(f"{path} was made with other {key}: move it away to create it again")
