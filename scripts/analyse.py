"""Measure how sharp the loss is around the weights of finished runs, or look at slices through it; nothing is trained.

python scripts/analyse.py run=RUN_ID
python scripts/analyse.py experiment=noisy40 --rows 'SGD;SAM' --seeds 0,1
python scripts/analyse.py experiment=noisy40 --rows 'SGD;SAM' --seeds 0 --landscape plane
python scripts/analyse.py run=RUN_ID,RUN_ID --landscape between

The weights are those of the runs' last checkpoints, or those that scripts/keep_weights.py has kept; of runs that
average weights, those that were trained. The loss is that of training images, not augmented, in float32. What is found
is written beside the records, to results/<experiment>/analysis/<run>.json, with the BatchNorm statistics of each batch
(analysis=batch_statistics) to <run>-batch.json there, slices to results/<experiment>/landscape/<kind>-<run>.json.
What is there already stays, if it was made of the same.

What follows the options are settings as python -m sam_bench takes them: analysis.images=500, data.root=data,
paths.results=results/measured. By default analysis=full. Between two solutions, which are at 0 and 1, running
statistics are estimated anew at every point. scripts/report.py --results results makes tables and figures of it.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from sam_bench.analysis.landscape import filter_normalised, line, plane
from sam_bench.analysis.measure import measure
from sam_bench.analysis.objective import Objective
from sam_bench.analysis.spectrum import NotConverged
from sam_bench.cli.compose import compose
from sam_bench.config.schema import AnalysisConfig, Config, path_of
from sam_bench.errors import ConfigError, ResourceError, StateError
from sam_bench.lookup import lookup
from sam_bench.plugins import load_installed
from sam_bench.report.rows import Record
from sam_bench.runs.files import write_atomically
from sam_bench.runs.finished import check_analysable, digest_of, images_of, kept_weights, network_of
from sam_bench.runs.provenance import code_versions
from sam_bench.runs.record import SCHEMA_VERSION, as_json, read_record
from sam_bench.runtime.device import Hardware
from scripts.arguments import at_least, errors_as_messages, parser
from scripts.make_table import findings

KINDS = ("line", "plane", "between")
"""Slices: through a solution along one random direction, or two, and straight from one solution to another."""

SEEDS = (0, 1)
"""Of the random directions."""

DECIDING = ("schema_version", "run_ids", "test_errors", "weights_sha256", "images_sha256", "settings")
"""Entries that are alike in two analyses of the same."""


@dataclass(frozen=True)
class Slice:
    """Where a landscape is looked at.

    Args:
        kind: one of `KINDS`.
        points: along each direction; an odd number, so that the solution is one of them.
        span: how far it goes to both sides, in lengths of the direction; between two solutions it has no part.
    """

    kind: str
    points: int
    span: float

    def steps(self) -> list[float]:
        """Return how far along the direction each point is."""
        last = self.points - 1
        if self.kind == "between":
            return [i / last for i in range(self.points)]
        return [self.span * (2 * i - last) / last for i in range(self.points)]


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Args:
        folder: of its experiment's results.
    """

    record: Record
    folder: Path


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("what", help="run=RUN_ID, with --landscape between run=RUN_ID,RUN_ID, or experiment=NAME")
    words.add_argument("--rows", default="", help="of an experiment: its table's rows, with semicolons; else all")
    words.add_argument("--seeds", default=[], type=numbers, help="of an experiment: with commas; else all")
    words.add_argument("--landscape", choices=KINDS, help="a slice of the loss instead of measures of its sharpness")
    words.add_argument("--points", default=21, type=at_least(3), help="of a slice along each direction, an odd number")
    words.add_argument("--span", default=1.0, type=at_least(0.0, float), help="how far it goes; not for between")
    words.add_argument("overrides", nargs="*", help="settings, such as analysis.images=500")
    options = words.parse_intermixed_args(arguments)
    load_installed()
    config = compose(["analysis=full", *options.overrides])
    if config.analysis.is_off:
        raise ConfigError("analysis=none measures nothing: choose another")
    if not options.points % 2:
        raise ConfigError(f"--points {options.points} must be odd, so that a solution is one of them")
    where = Slice(options.landscape, options.points, options.span) if options.landscape else None
    kind, _, name = options.what.partition("=")
    results = path_of("paths.results", config.paths.results)
    if kind == "experiment" and name:
        runs = [[run] for run in chosen(results / name, name, options.rows, options.seeds)]
    elif kind == "run" and name and not options.rows and not options.seeds:
        runs = [[find(results, run_id) for run_id in name.split(",")]]
    else:
        raise ConfigError(f"{options.what} must be run=RUN_ID, or experiment=NAME with --rows and --seeds")
    if any(len(each) != (2 if where is not None and where.kind == "between" else 1) for each in runs):
        raise ConfigError("one run is analysed at a time; --landscape between, and it alone, takes run=RUN_ID,RUN_ID")
    failed = []
    with Progress() as progress:
        whole = progress.add_task("runs", total=len(runs))
        for each in runs:
            try:
                said = str(analyse(each, config, where, progress))
            except NotConverged as error:
                failed.append(f"{each[0].record['run_id']}: {error}")
                said = failed[-1]
            progress.console.print(said, highlight=False, soft_wrap=True)
            progress.advance(whole)
    if failed:
        raise ResourceError(f"{len(failed)} of {len(runs)} runs have no eigenvalues; raise analysis.tolerance")


def numbers(text: str) -> list[int]:
    """Return an option's value: whole numbers with commas between them."""
    return [int(number) for number in text.split(",")]


def chosen(folder: Path, experiment: str, rows: str, seeds: Sequence[int]) -> list[Finished]:
    """Return the finished runs of an experiment's rows and seeds that can be analysed.

    Args:
        folder: of its results.

    Raises:
        ConfigError: there is no such row, or there are no such runs.
    """
    records = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
    if rows:
        runs: dict[str, list[Record]] = {}
        for split in ("test", "val"):
            if of_split := [record for record in records if record["config"]["data"]["split"] == split]:
                for row in findings(experiment, of_split).rows:
                    runs.setdefault(row.title, []).extend(row.runs)
        titles = [title.strip() for title in rows.split(";")]
        for title in titles:
            lookup(runs, title, "row")
        records = [record for title in titles for record in runs[title]]
    found = [record for record in records if not seeds or record["seed"] in seeds]
    if not found:
        raise ConfigError(f"{folder / 'records'} has no such finished runs")
    runs = []
    for record in found:
        try:
            check_analysable(record)
        except StateError as error:
            print(f"Left out: {error}")
        else:
            runs.append(Finished(record, folder))
    return runs


def find(results: Path, run_id: str) -> Finished:
    """Return a run of whatever experiment.

    Raises:
        ConfigError: there is no record of it, or several experiments have one.
    """
    paths = sorted(results.rglob(f"records/{run_id}.json"))
    found = [path for path in paths if "measured" not in path.relative_to(results).parts]
    if len(found) != 1:
        raise ConfigError(f"there are {len(found)} records {run_id}.json below {results}, where there must be one")
    return Finished(read_record(found[0]), found[0].parents[1])


def analyse(runs: Sequence[Finished], config: Config, where: Slice | None, progress: Progress) -> Path:
    """Analyse a run, or the way from one to another, write what is found, and return the file.

    Raises:
        UserError: weights or data are not to be had, two runs are not of one network and one set of images, or what is
            there was made of others.
    """
    records = [run.record for run in runs]
    first = records[0]
    for record in records:
        check_analysable(record)
        if comparable(record) != comparable(first):
            raise ConfigError(f"{record['run_id']} has another network, or other images, than {first['run_id']}")
    hardware = Hardware.choose(config.trainer.device, "fp32")
    hardware.configure(deterministic=False)
    weights = [kept_weights(run.record, run.folder, config.paths.runs_of(run.record["experiment"])) for run in runs]
    data = compose([f"data={first['dataset']}", f"data.root={config.data.root}"]).data
    images = images_of(first, data, config.analysis, hardware)
    folder = runs[0].folder
    asked = {
        "schema_version": SCHEMA_VERSION,
        "run_ids": [each["run_id"] for each in records],
        "test_errors": [each["test_error"] for each in records],
        "weights_sha256": [digest_of(each) for each in weights],
        "images_sha256": images.sha256,
        "settings": settings_of(config.analysis, where),
    }
    name = "-".join(asked["run_ids"])
    if where is None:
        suffix = "-batch" if config.analysis.batchnorm == "batch" else ""
        path = folder / "analysis" / f"{name}{suffix}.json"
    else:
        path = folder / "landscape" / f"{where.kind}-{name}.json"
    if path.exists():
        check_same(path, asked)
        return path
    networks = [
        network_of(record, its, data.spec.classes).to(hardware.device)
        for record, its in zip(records, weights, strict=True)
    ]
    started = time.perf_counter()
    if where is None:
        measures = measure(networks[0], images, config.analysis)
        found = {"measures": {name: "inf" if value == math.inf else value for name, value in measures.items()}}
    else:
        batchnorm = asked["settings"]["batchnorm"]
        objectives = [
            Objective(network, images.inputs, images.labels, config.analysis.batch_size, batchnorm)
            for network in networks
        ]
        found = landscape(objectives, where, progress)
    seconds = time.perf_counter() - started
    found = asked | found | {"seconds": seconds, "device": hardware.name, **code_versions("scipy")}
    write_atomically(path, as_json(found))
    return path


def comparable(record: Record) -> tuple[Any, ...]:
    """Return what two runs must share for a way from one's weights to the other's."""
    return record["dataset_sha256"], record["config"]["model"]


def settings_of(config: AnalysisConfig, where: Slice | None) -> dict[str, Any]:
    """Return what decides the result, as JSON has it."""
    settings = config.model_dump(mode="json", exclude={"name", "every"})
    if where is None:
        return settings
    shared = {key: settings[key] for key in ("images", "batch_size", "batchnorm")}
    if where.kind == "between":
        return asdict(where) | shared | {"batchnorm": "reestimated", "span": None}
    return asdict(where) | shared | {"direction_seeds": list(SEEDS)[: 2 if where.kind == "plane" else 1]}


def landscape(objectives: Sequence[Objective], where: Slice, progress: Progress) -> dict[str, Any]:
    """Return losses and errors along a slice: a number for each step, in a plane a row of them for each step."""
    ours = objectives[0]
    w = ours.weights
    steps = where.steps()
    task = progress.add_task("points", total=len(steps) ** (2 if where.kind == "plane" else 1))

    def tell(done: int) -> None:
        progress.update(task, completed=done)

    if where.kind == "plane":
        first, second = (filter_normalised(ours, w, seed) for seed in SEEDS)
        rows = plane(ours, w, (first, second), steps, tell)
        losses, errors = ([[value[i] for value in row] for row in rows] for i in (0, 1))
    else:
        direction = objectives[1].weights - w if where.kind == "between" else filter_normalised(ours, w, SEEDS[0])
        losses, errors = ([value[i] for value in line(ours, w, direction, steps, tell)] for i in (0, 1))
    progress.remove_task(task)
    return {"steps": steps, "losses": losses, "errors": errors}


def check_same(path: Path, asked: dict[str, Any]) -> None:
    """Find out whether what is there was made of the same.

    Raises:
        StateError: it was not, or it is no analysis.
    """
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(f"{path} is not what was written there: move it away to make it anew") from error
    for key in DECIDING:
        if there.get(key) != asked[key]:
            raise StateError(f"{path} was made with other {key}: move it away to make it anew")


if __name__ == "__main__":
    main(sys.argv[1:])
