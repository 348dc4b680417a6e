"""The cost of rows, from a benchmark on an otherwise idle machine rather than from the seconds of the runs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from sam_bench.report.rows import Row


class Cost:
    """The training time of a row, in passes of SGD.

    Args:
        benchmarks: the results of `make bench`; for each network and method the first that measured it counts.
    """

    def __init__(self, benchmarks: Iterable[Mapping[str, Any]] = ()):
        #: The seconds of a method's pass over those of SGD's pass, by network and method.
        self.per_pass: dict[tuple[str, str], float] = {}
        for benchmark in benchmarks:
            for comparison in benchmark["comparisons"]:
                if comparison["question"] == "method":
                    self._add_ratios(comparison)

    @classmethod
    def read(cls, folder: Path) -> "Cost":
        """Read all benchmarks in a folder; if several measured the same, the first file by name counts."""
        return cls(json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))

    def is_measured(self, row: Row) -> bool:
        """Return True if a benchmark has measured the row's method on its network; always for SGD."""
        return row.method == "sgd" or self._key(row) in self.per_pass

    def __call__(self, row: Row) -> float:
        """Return how many passes of SGD take as long as a run; an unmeasured method's pass counts as one of SGD's."""
        return row.means["passes"] * self.per_pass.get(self._key(row), 1.0)

    def _key(self, row: Row) -> tuple[str, str]:
        model = row.config["model"]
        return model.get("arch") or model["name"], row.method

    def _add_ratios(self, comparison: Mapping[str, Any]) -> None:
        turns_by_method = {
            result["case"]["method"]: result["turns"] for result in comparison["results"] if result["case"]["method"]
        }

        # Ratios are taken within a round of turns, so that a drift of the machine's speed hardly matters.
        for method, turns in turns_by_method.items():
            if method != "sgd":
                ratios = [
                    turn["seconds"] / (turn["passes"] * sgd_turn["seconds"])
                    for turn, sgd_turn in zip(turns, turns_by_method["sgd"], strict=True)
                ]
                self.per_pass.setdefault((comparison["model"], method), median(ratios))
