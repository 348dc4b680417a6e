"""Measure how sharp the loss is around the weights of finished runs, or look at slices through it; nothing is trained.

python scripts/analyse.py run=RUN_ID
python scripts/analyse.py experiment=noisy40 --rows 'SGD;SAM' --seeds 0,1
python scripts/analyse.py experiment=noisy40 --rows 'SGD;SAM' --seeds 0 --landscape plane
python scripts/analyse.py run=RUN_ID,RUN_ID --landscape between

The weights are those of the runs' last checkpoints, or those that scripts/keep_weights.py has kept; of runs that
average weights, those that were trained. The loss is that of training images, not augmented, in float32. What is found
is written beside the records, to results/<experiment>/analysis/<run>.json, or to
results/<experiment>/landscape/<kind>-<run>.json. What is there already stays, if it was made of the same.

What follows the options are settings as python -m sam_bench takes them: analysis.images=500, data.root=data,
paths.results=results/measured. By default analysis=full. Between two solutions running statistics are estimated anew at
every point.
"""

import json
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
from sam_bench.cli.compose import compose
from sam_bench.config.schema import AnalysisConfig, Config
from sam_bench.errors import ConfigError, StateError
from sam_bench.lookup import lookup
from sam_bench.plugins import load_installed
from sam_bench.report.rows import Record
from sam_bench.runs.files import write_atomically
from sam_bench.runs.finished import digest_of, images_of, kept_weights, network_of
from sam_bench.runs.provenance import code_versions
from sam_bench.runs.record import SCHEMA_VERSION, as_json, read_record
from sam_bench.runtime.device import Hardware
from scripts.arguments import at_least, errors_as_messages, parser
from scripts.make_table import findings

KINDS = ("line", "plane", "between")
"""Slices: through a solution along one random direction, or two, and straight from one solution to another."""

SEEDS = (0, 1)
"""Of the random directions."""

DECIDING = ("run_ids", "weights_sha256", "images_sha256", "settings")
"""Entries that are alike in two analyses of the same."""


@dataclass(frozen=True)
class Slice:
    """Where a landscape is looked at.

    Args:
        kind: one of `KINDS`.
        points: along each direction; an odd number, so that a solution is one of them.
        span: how far it goes to both sides, in lengths of the direction; between two solutions, which are at 0 and 1,
            how far beyond them.
    """

    kind: str
    points: int
    span: float

    def steps(self) -> list[float]:
        """Return how far along the direction each point is."""
        low, high = (-self.span, 1 + self.span) if self.kind == "between" else (-self.span, self.span)
        return [low + (high - low) * i / (self.points - 1) for i in range(self.points)]


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("what", help="run=RUN_ID, with --landscape between run=RUN_ID,RUN_ID, or experiment=NAME")
    words.add_argument("--rows", default="", help="of an experiment: its table's rows, with semicolons; else all")
    words.add_argument("--seeds", default="", help="of an experiment: numbers, with commas; else all")
    words.add_argument("--landscape", choices=KINDS, help="a slice of the loss instead of measures of its sharpness")
    words.add_argument("--points", default=21, type=at_least(3), help="of a slice along each direction, an odd number")
    words.add_argument("--span", default=1.0, type=at_least(0.0, float), help="how far a slice goes")
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
    results = Path(config.paths.results)
    if kind == "experiment" and name:
        records = [[record] for record in chosen(results / name, options.rows, options.seeds)]
    elif kind == "run" and name:
        records = [[find(results, run_id) for run_id in name.split(",")]]
    else:
        raise ConfigError(f"{options.what} must be run=RUN_ID or experiment=NAME")
    if any(len(each) != (2 if where is not None and where.kind == "between" else 1) for each in records):
        raise ConfigError("one run is analysed at a time; --landscape between, and it alone, takes run=RUN_ID,RUN_ID")
    with Progress() as progress:
        whole = progress.add_task("runs", total=len(records))
        for each in records:
            path = analyse(each, config, where, progress)
            progress.console.print(f"{path}", highlight=False, soft_wrap=True)
            progress.advance(whole)


def chosen(folder: Path, rows: str, seeds: str) -> list[Record]:
    """Return the finished runs of an experiment's rows and seeds.

    Raises:
        ConfigError: there is no such row, or there are no such runs.
    """
    records = [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
    if rows:
        runs: dict[str, list[Record]] = {}
        for split in ("test", "val"):
            if of_split := [record for record in records if record["config"]["data"]["split"] == split]:
                for row in findings(folder.name, of_split).rows:
                    runs.setdefault(row.title, []).extend(row.runs)
        titles = [title.strip() for title in rows.split(";")]
        for title in titles:
            lookup(runs, title, "row")
        records = [record for title in titles for record in runs[title]]
    wanted = {int(seed) for seed in seeds.split(",") if seed} or {record["seed"] for record in records}
    found = [record for record in records if record["status"] == "finished" and record["seed"] in wanted]
    if not found:
        raise ConfigError(f"{folder / 'records'} has no such finished runs")
    return found


def find(results: Path, run_id: str) -> Record:
    """Return the record of a run, of whatever experiment.

    Raises:
        ConfigError: there is none, or several experiments have it.
    """
    paths = sorted(results.rglob(f"records/{run_id}.json"))
    found = [path for path in paths if "measured" not in path.relative_to(results).parts]
    if len(found) != 1:
        raise ConfigError(f"there are {len(found)} records {run_id}.json below {results}, where there must be one")
    return read_record(found[0])


def analyse(records: Sequence[Record], config: Config, where: Slice | None, progress: Progress) -> Path:
    """Analyse a run, or the way from one to another, write what is found, and return the file.

    Raises:
        UserError: weights or data are not to be had, or what is there was made of others.
    """
    first = records[0]
    folder = config.paths.results_of(first["experiment"])
    hardware = Hardware(Hardware.choose(config.trainer.device, "fp32").device, "fp32")
    hardware.configure(deterministic=False)
    weights = [kept_weights(each, folder, config.paths.runs_of(first["experiment"])) for each in records]
    data = compose([f"data={first['dataset']}", f"data.root={config.data.root}"]).data
    images = images_of(first, data, config.analysis.images, hardware)
    asked = {
        "schema_version": SCHEMA_VERSION,
        "run_ids": [each["run_id"] for each in records],
        "weights_sha256": [digest_of(each) for each in weights],
        "images_sha256": images.sha256,
        "settings": settings_of(config.analysis, where),
    }
    name = "-".join(asked["run_ids"])
    path = folder / "landscape" / f"{where.kind}-{name}.json" if where else folder / "analysis" / f"{name}.json"
    if path.exists():
        check_same(path, asked)
        return path
    networks = [
        network_of(record, its, data.spec.classes).to(hardware.device)
        for record, its in zip(records, weights, strict=True)
    ]
    started = time.perf_counter()
    if where is None:
        found = {"measures": measure(networks[0], images, config.analysis)}
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


def settings_of(config: AnalysisConfig, where: Slice | None) -> dict[str, Any]:
    """Return what decides the result, as JSON has it."""
    settings = config.model_dump(mode="json", exclude={"name", "every"})
    if where is None:
        return settings
    shared = {key: settings[key] for key in ("images", "batch_size", "batchnorm")}
    if where.kind == "between":
        return asdict(where) | shared | {"batchnorm": "reestimated"}
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
        there = json.loads(path.read_text())
    except ValueError as error:
        raise StateError(f"{path} is not what was written there: move it away to make it anew") from error
    for key in DECIDING:
        if there.get(key) != asked[key]:
            raise StateError(f"{path} was made with other {key}: move it away to make it anew")


if __name__ == "__main__":
    main(sys.argv[1:])
