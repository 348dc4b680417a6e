"""A study: a comparison that is defined before its runs are made, and the rows that its records form."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sam_bench.errors import ConfigError, StateError
from sam_bench.lookup import lookup
from sam_bench.report.rows import DRAWN_BY, LAST, Record, Row, averages_of
from sam_bench.runs.record import flat

#: Settings in a record that say where, or with which code, a run was made; a study's rows are matched without them.
WHERE = {
    "seed", "protocol", "averaging.estimation", "optimizer.package", "optimizer.sync_perturbation",
    "trainer.compiled", "trainer.deterministic", "trainer.device", "trainer.precision", "trainer.processes",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A comparison of rows, as defined in a file of `conf/study`.

    Args:
        title: its subject, in a few words.
        experiment: the name of the preset.
        seeds: the seeds of every row.
        baselines: the titles of SGD's rows. Each row is compared with those of equal epochs, passes and seconds.
        reference: the title of the row that all others are compared with as well.
        planned: pairs of a row and its baseline that were named before there were runs, unless the note says otherwise.
            They are corrected for their own number.
        margin: differences up to so many points do not matter; 0 if the file fixes no margin.
        note: what a reader must know besides.
        rows: for each title, the overrides of its runs besides the preset and the seed.
    """

    title: str
    experiment: str
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    reference: str
    planned: tuple[tuple[str, str], ...]
    margin: float
    note: str
    rows: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a file of `conf/study`.

        Raises:
            ConfigError: the file is not valid YAML, or its content is not a study.
        """
        try:
            # All scalars are read as text: YAML 1.1 would read rows called No or 1.0 as a boolean and a number.
            values: Any = yaml.load(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)  # noqa: S506 (it makes text only)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error

        expected = {
            "title": str, "experiment": str, "seeds": list, "baselines": list, "reference": str, "planned": list,
            "margin": str, "note": str, "rows": dict,
        }  # fmt: skip
        values = {"margin": "0"} | values if isinstance(values, dict) else values
        if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != expected:
            kinds = {str: "text", list: "a list", dict: "a mapping"}
            entries = ", ".join(f"{key} ({kinds[kind]})" for key, kind in expected.items())
            raise ConfigError(f"{path} must have {entries}, and nothing else")
        if not all(re.fullmatch(r"[0-9]+", str(seed)) for seed in values["seeds"]):
            raise ConfigError(f"{path}: seeds={values['seeds']} must be whole numbers of at least 0")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", values["margin"]):
            raise ConfigError(f"{path}: margin={values['margin']} must be a number of points of at least 0")
        if not all(isinstance(overrides, str) for overrides in values["rows"].values()):
            raise ConfigError(f"{path}: each row must be text with the overrides of its runs, such as optimizer=sam")

        rows = {title: overrides.split() for title, overrides in values["rows"].items()}
        planned = values["planned"]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in planned):
            raise ConfigError(f"{path}: planned must be pairs [row, baseline]")
        for title in (*values["baselines"], values["reference"], *(title for pair in planned for title in pair)):
            lookup(rows, title, f"{path}: row")

        return cls(
            **values
            | {"seeds": tuple(map(int, values["seeds"])), "baselines": tuple(values["baselines"]), "rows": rows}
            | {"planned": tuple((row, base) for row, base in planned), "margin": float(values["margin"])}
        )

    def runs(self, seeds: Sequence[int], extra: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
        """Return the title and the overrides of each run, seed by seed.

        Args:
            extra: further overrides of every run.
        """
        return [
            (f"{title}  seed {seed}", [*self.overrides(title), f"seed={seed}", *extra])
            for seed in seeds
            for title in self.rows
        ]

    def overrides(self, title: str) -> list[str]:
        """Return the overrides of a row's runs, without the seed."""
        return [f"experiment={self.experiment}", *self.rows[title]]

    def rows_of(self, records: Iterable[Record], settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[Row]:
        """Return the rows that have runs, in order; a row with averaged weights is evaluated at the average.

        Args:
            records: records of any runs, of which those of the study's rows and seeds are taken.
            settings: the configuration of each run, by row title and seed.

        Raises:
            StateError: runs cannot be compared: those of a row differ in precision, m or BatchNorm, or runs that should
                have the same data do not; or runs of a row have several averages.
        """
        wanted = {
            title: {seed: flat(config) for seed, config in by_seed.items()} for title, by_seed in settings.items()
        }
        runs: dict[str, list[Record]] = {title: [] for title in self.rows}
        for record in records:
            recorded = flat(record["config"])
            seed = record["seed"]
            for title, requested in wanted.items():
                if seed in self.seeds and _matches(requested[seed], recorded):
                    runs[title].append(record)

        rows = [_row(title, of_row) for title, of_row in runs.items() if of_row]
        for row in rows:
            _check_alike(f"runs of {row.title}", row.runs, ("precision", "m", "batchnorm"))
            _check_data(f"runs of {row.title}", row.runs)
        _check_data(f"rows of {self.title}", [run for row in rows for run in row.runs])
        return rows


def remarks_on_mixtures(rows: Sequence[Row]) -> list[str]:
    """Return a line for each property that should be the same in all rows of a table and is not, with the odd rows."""
    facts = {
        "precision": lambda run: run["precision"],
        "PyTorch": lambda run: run.get("versions", {}).get("torch"),
        "machine": lambda run: run["device"],
        "m": lambda run: run.get("m"),
        "compiled": lambda run: run.get("compiled"),
    }

    lines = []
    for name, fact in facts.items():
        titles: dict[Any, list[str]] = {}
        for row in rows:
            for value in dict.fromkeys(fact(run) for run in row.runs):
                if value is not None:
                    titles.setdefault(value, []).append(row.title)

        if len(titles) > 1:
            usual = max(titles, key=lambda value: len(titles[value]))
            others = "; ".join(f"{value} in {', '.join(odd)}" for value, odd in titles.items() if value != usual)
            lines.append(f"Not alike in all rows: {name}, {usual}, but {others}.")
    return lines


def _matches(requested: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Return True if a record has the settings that were requested, apart from `WHERE`.

    Args:
        requested, recorded: flat configurations.
    """
    # The record has the m that was used. By default it is each process's share of the batch; processes that
    # synchronise their perturbations always use the whole batch.
    requested = dict(requested)
    if "optimizer.m" in recorded:
        in_sync = requested.get("optimizer.sync_perturbation")
        share = requested["trainer.batch_size"] // (1 if in_sync else recorded.get("trainer.processes", 1))
        requested["optimizer.m"] = share if in_sync else requested.get("optimizer.m", share)

    # "re-estimated" follows from the method and the base, whatever was requested.
    ignored = WHERE | ({"optimizer.batchnorm"} if recorded["optimizer.batchnorm"] == "re-estimated" else set())
    one, other = ({key: value for key, value in each.items() if key not in ignored} for each in (requested, recorded))
    return one == other


def _row(title: str, runs: Sequence[Record]) -> Row:
    averages = averages_of(runs)
    if len(averages) > 1:
        raise StateError(
            f"runs of {title} have several averages of the weights ({', '.join(averages)}): keep the records of one"
        )
    return Row(title, tuple(sorted(runs, key=lambda run: run["seed"])), averages[0] if averages else LAST)


def _check_alike(which: str, runs: Sequence[Record], keys: Sequence[str]) -> None:
    """Check that runs have the same value of each key.

    Raises:
        StateError: two runs differ.
    """
    for key in keys:
        if len(values := {run.get(key) for run in runs}) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise StateError(
                f"{which} differ in {key} ({listed}), so they cannot be compared: keep the records of one {key} only"
            )


def _check_data(which: str, runs: Sequence[Record]) -> None:
    """Check that runs of the same seed, and runs of the same draw, have the same images and labels.

    Raises:
        StateError: two such runs have different data.
    """
    # Runs of one seed are compared with each other. Runs with equal `DRAWN_BY` settings drew the same data.
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for run in runs:
        settings = flat(run["config"])
        groups.setdefault(("seed", run["seed"]), []).append(run)
        groups.setdefault(("draw", *(settings.get(key) for key in DRAWN_BY)), []).append(run)
    for group in groups.values():
        _check_alike(which, group, ("dataset_sha256",))
