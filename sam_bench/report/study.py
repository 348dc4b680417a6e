"""A study: a comparison that is named before its runs are made, and the rows that its records make."""

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

WHERE = {
    "seed", "protocol", "averaging.estimation", "optimizer.package", "optimizer.sync_perturbation",
    "trainer.compiled", "trainer.deterministic", "trainer.device", "trainer.precision", "trainer.processes",
}  # fmt: skip
"""What a record's configuration says of where, or with which code, a run was made, and no command line need say."""


@dataclass(frozen=True)
class Study:
    """A comparison.

    Args:
        title: what it is of, in a few words.
        experiment: the preset.
        seeds: of every row.
        baselines: the rows of SGD: each row is compared with the one of as many epochs, and with the one of as many
            passes, and seconds.
        reference: the row with which all are compared too.
        planned: further pairs of a row and its baseline; these, and those of the others that are among them, were
            named before there were runs, unless the note says otherwise, and are corrected for their own number.
        note: what must be known beside.
        rows: by title, what its runs are told beside the preset and the seed.
    """

    title: str
    experiment: str
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    reference: str
    planned: tuple[tuple[str, str], ...]
    note: str
    rows: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a file of `conf/study`.

        Raises:
            ConfigError: it is none.
        """
        try:
            # Every scalar as it is written: YAML 1.1 would read rows called No or 1.0 as a boolean and a number.
            values: Any = yaml.load(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)  # noqa: S506 (it makes text only)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
        expected = {
            "title": str, "experiment": str, "seeds": list, "baselines": list, "reference": str, "planned": list,
            "note": str, "rows": dict,
        }  # fmt: skip
        if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != expected:
            words = {str: "text", list: "a list", dict: "a mapping"}
            what = ", ".join(f"{key} ({words[kind]})" for key, kind in expected.items())
            raise ConfigError(f"{path} must have {what}, and no more")
        if not all(re.fullmatch(r"[0-9]+", str(seed)) for seed in values["seeds"]):
            raise ConfigError(f"{path}: seeds={values['seeds']} must be whole numbers of at least 0")
        if not all(isinstance(overrides, str) for overrides in values["rows"].values()):
            raise ConfigError(f"{path}: each row must be text, the overrides of its runs, such as optimizer=sam")
        rows = {title: overrides.split() for title, overrides in values["rows"].items()}
        planned = values["planned"]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in planned):
            raise ConfigError(f"{path}: planned must be pairs [row, baseline]")
        for title in (*values["baselines"], values["reference"], *(title for pair in planned for title in pair)):
            lookup(rows, title, f"{path}: row")
        return cls(
            **values
            | {"seeds": tuple(map(int, values["seeds"])), "baselines": tuple(values["baselines"]), "rows": rows}
            | {"planned": tuple((row, base) for row, base in planned)}
        )

    def runs(self, seeds: Sequence[int], extra: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
        """Title and overrides of each run, seed by seed."""
        return [
            (f"{title}  seed {seed}", [*self.overrides(title), f"seed={seed}", *extra])
            for seed in seeds
            for title in self.rows
        ]

    def overrides(self, title: str) -> list[str]:
        """What a row's runs are told beside the seed."""
        return [f"experiment={self.experiment}", *self.rows[title]]

    def rows_of(self, records: Iterable[Record], settings: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[Row]:
        """Return the rows that have runs, in their order; where the weights are averaged, of the average.

        Args:
            records: of any runs; those of the study's rows and seeds are taken.
            settings: by title and seed, the configuration of a row's run.

        Raises:
            StateError: runs of a row differ in precision, or runs of one draw in data: they cannot be compared.
        """
        wanted = {title: {seed: flat(config) for seed, config in its.items()} for title, its in settings.items()}
        runs: dict[str, list[Record]] = {title: [] for title in self.rows}
        for record in records:
            found = flat(record["config"])
            seed = record["seed"]
            for title, asked in wanted.items():
                if seed in self.seeds and _is_asked(asked[seed], found):
                    runs[title].append(record)

        rows = [_row(title, each) for title, each in runs.items() if each]
        for row in rows:
            _check_alike(f"runs of {row.title}", row.runs, ("precision", "m", "batchnorm"))
            _check_data(f"runs of {row.title}", row.runs)
        _check_data(f"rows of {self.title}", [run for row in rows for run in row.runs])
        return rows


def remarks_on_mixtures(rows: Sequence[Row]) -> list[str]:
    """A line for each thing that should be alike in all rows of a table and is not, with the rows that have it."""
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
            most = max(titles, key=lambda value: len(titles[value]))
            others = "; ".join(f"{value} in {', '.join(of_it)}" for value, of_it in titles.items() if value != most)
            lines.append(f"Not alike in all rows: {name}, {most}, but {others}.")
    return lines


def _is_asked(asked: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a record's settings are those that are asked for; m is a process's share of the batch where it is not."""
    asked = dict(asked)
    if "optimizer.m" in found:
        together = asked.get("optimizer.sync_perturbation")
        share = asked["trainer.batch_size"] // (1 if together else found.get("trainer.processes", 1))
        asked["optimizer.m"] = share if together else asked.get("optimizer.m", share)
    left = WHERE | ({"optimizer.batchnorm"} if found["optimizer.batchnorm"] == "re-estimated" else set())
    one, other = ({key: value for key, value in each.items() if key not in left} for each in (asked, found))
    return one == other


def _row(title: str, runs: Sequence[Record]) -> Row:
    averages = averages_of(runs)
    if len(averages) > 1:
        raise StateError(f"runs of {title} have several averages of the weights: {', '.join(averages)}; keep one")
    return Row(title, tuple(sorted(runs, key=lambda run: run["seed"])), averages[0] if averages else LAST)


def _check_alike(which: str, runs: Sequence[Record], keys: Sequence[str]) -> None:
    for key in keys:
        if len(values := {run.get(key) for run in runs}) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise StateError(
                f"{which} differ in {key} ({listed}), and cannot be compared: move the records of one away"
            )


def _check_data(which: str, runs: Sequence[Record]) -> None:
    """Check that runs have the same images and labels, as far as they should.

    Raises:
        StateError: runs of one seed differ, which are compared with each other, or runs of one draw do.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for run in runs:
        settings = flat(run["config"])
        groups.setdefault(("seed", run["seed"]), []).append(run)
        groups.setdefault(("draw", *(settings.get(key) for key in DRAWN_BY)), []).append(run)
    for its in groups.values():
        _check_alike(which, its, ("dataset_sha256",))
