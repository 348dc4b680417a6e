"""What the benchmark asks and what it finds: records that are written as JSON and read back by field."""

import dataclasses
import json
import statistics
from dataclasses import dataclass
from typing import Any

PERIOD = {"looksam": 5}
"""Steps after which a method repeats itself; 1 for the others."""


@dataclass(frozen=True)
class Case:
    """What one process of the benchmark does, step by step.

    Args:
        kind: "ours", a step of our training loop; "lower bound", a forward and backward pass and nothing else;
            "user's loop", a step of `users_loop.py`; "batches", preparing one of our batches; "matmul", a product of
            two large matrices.
        method: the optimizer of our loop.
        engine: of our loop, "auto" too; of a lower bound "eager", "compile" or "graph".
        precision: of a user's loop "fp32" or "autocast", else a run's.
        workers: processes that load the batches of a user's loop.
        processes: started by torchrun; each has its own device and its share of the batch.
        threads: that the CPU's work is divided among; torch's default if None.
        warmup: steps before those that are measured.
    """

    kind: str
    model: str | None = None
    method: str | None = None
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 128
    workers: int = 0
    processes: int = 1
    threads: int | None = None
    warmup: int = 2

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Return the case that `to_json` has written."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return the fields as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def period(self) -> int:
        """The number of steps after which the method repeats itself."""
        return PERIOD.get(self.method or "", 1)

    def __str__(self) -> str:
        words = {"ours": f"{self.method}, {self.engine}", "lower bound": self.engine, "user's loop": self.precision}
        count = {1: ""}.get(self.processes, f", {self.processes} processes")
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.kind} ({words[self.kind]}{count}{threads})" if self.kind in words else self.kind


@dataclass(frozen=True)
class Comparison:
    """Cases that take turns.

    Args:
        question: "lower bound", "user's loop", "method", "engines", "threads", "batch size", "width" or "GPUs".
        evaluated: the case of which an evaluation is timed, too.
    """

    question: str
    model: str
    cases: tuple[Case, ...]
    evaluated: Case | None = None

    def __str__(self) -> str:
        last = self.cases[-1]
        words = {"method": last.method, "batch size": f"batch {last.batch_size}"}
        return f"{self.model}: {words.get(self.question, self.question)}"


@dataclass(frozen=True)
class CaseResult:
    """What was measured of a case.

    Args:
        facts: what its process knew once it was warm.
        turns: seconds, passes and peak memory of a step in each round.
    """

    case: Case
    facts: dict[str, Any]
    turns: list[dict[str, float]]

    @property
    def seconds(self) -> list[float]:
        """Seconds of a step, by round."""
        return [turn["seconds"] for turn in self.turns]

    @property
    def median(self) -> float:
        """The median of the seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Images of the batch over the median of the seconds."""
        return self.case.batch_size / self.median

    def over(self, other: "CaseResult") -> list[float]:
        """Return the seconds of a step over those of the other's, by round."""
        return [mine / its for mine, its in zip(self.seconds, other.seconds, strict=True)]

    def over_passes_of(self, other: "CaseResult") -> list[float]:
        """Return the seconds of a step over those of as many passes of the other's, by round."""
        pairs = zip(self.turns, other.turns, strict=True)
        return [a["seconds"] / (a["passes"] / (b["passes"] or 1) * b["seconds"]) for a, b in pairs]


@dataclass(frozen=True)
class ComparisonResult:
    """What was measured of a comparison.

    Args:
        results: of the cases that got warm.
        evaluation_seconds: of the test set, where it was timed.
    """

    question: str
    model: str
    results: list[CaseResult]
    evaluation_seconds: float | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ComparisonResult":
        """Return what `dataclasses.asdict` has made a dictionary of."""
        results = [CaseResult(Case(**result["case"]), result["facts"], result["turns"]) for result in data["results"]]
        return cls(data["question"], data["model"], results, data["evaluation_seconds"])

    def find(self, **fields: Any) -> CaseResult | None:
        """Return the first result whose case has these fields, if there is one."""
        matching = (each for each in self.results if fields.items() <= dataclasses.asdict(each.case).items())
        return next(matching, None)
