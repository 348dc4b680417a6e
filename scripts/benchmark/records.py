"""Records of the benchmark's cases, comparisons and results, which are stored as JSON."""

import dataclasses
import json
import statistics
from dataclasses import dataclass
from typing import Any

#: Number of steps after which a method's steps repeat; 1 for the methods that are not named.
PERIOD = {"looksam": 5}


@dataclass(frozen=True)
class Case:
    """A case: the work that one process of the benchmark repeats.

    Args:
        kind: "ours", a step of our training loop; "lower bound", a forward and backward pass and nothing else;
            "user's loop", a step of `users_loop.py`; "batches", preparing one of our batches; "matmul", a product of
            two large matrices.
        method: optimizer of our loop.
        engine: "eager", "compile" or "graph"; for our loop also "auto".
        precision: "fp32" or "autocast" for a user's loop; else a precision of `trainer.precision`.
        batch_size: images per step, over all processes.
        workers: number of processes that load the batches of a user's loop.
        processes: number of processes that torchrun starts; each has its own device and its share of the batch.
        threads: number of CPU threads of each process; torch's default if None.
        warmup: number of steps before the measured ones.
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
        """Return the case from the output of `to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return the fields as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def period(self) -> int:
        """Number of steps after which the method's steps repeat."""
        return PERIOD.get(self.method or "", 1)

    def __str__(self) -> str:
        details = {"ours": f"{self.method}, {self.engine}", "lower bound": self.engine, "user's loop": self.precision}
        processes = {1: ""}.get(self.processes, f", {self.processes} processes")
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.kind} ({details[self.kind]}{processes}{threads})" if self.kind in details else self.kind


@dataclass(frozen=True)
class Comparison:
    """A comparison of cases, which take turns.

    Args:
        question: "lower bound", "user's loop", "method", "engines", "threads", "batch size", "width" or "GPUs".
        evaluated: the case whose evaluation on the test set is timed as well, if any.
    """

    question: str
    model: str
    cases: tuple[Case, ...]
    evaluated: Case | None = None

    def __str__(self) -> str:
        last = self.cases[-1]
        names = {"method": last.method, "batch size": f"batch {last.batch_size}"}
        return f"{self.model}: {names.get(self.question, self.question)}"


@dataclass(frozen=True)
class CaseResult:
    """The measurements of a case.

    Args:
        facts: facts that its process reported after its warm-up.
        turns: mean seconds and passes of a step, and peak memory in bytes, for each round.
    """

    case: Case
    facts: dict[str, Any]
    turns: list[dict[str, float]]

    @property
    def seconds(self) -> list[float]:
        """Seconds per step, by round."""
        return [turn["seconds"] for turn in self.turns]

    @property
    def median(self) -> float:
        """Median seconds per step over the rounds."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Images per second: the batch size divided by the median seconds per step."""
        return self.case.batch_size / self.median

    def over(self, other: "CaseResult") -> list[float]:
        """Return the ratio of this case's seconds per step to the other's, by round."""
        return [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]

    def over_passes_of(self, other: "CaseResult") -> list[float]:
        """Return the ratio of this case's seconds per pass to the other's, by round.

        A step of the other case counts as one pass if its passes are not counted.
        """
        pairs = zip(self.turns, other.turns, strict=True)
        return [
            mine["seconds"] / (mine["passes"] / (theirs["passes"] or 1) * theirs["seconds"]) for mine, theirs in pairs
        ]


@dataclass(frozen=True)
class ComparisonResult:
    """The measurements of a comparison.

    Args:
        results: results of the cases that finished their warm-up.
        evaluation_seconds: seconds of an evaluation on the test set, if it was timed.
    """

    question: str
    model: str
    results: list[CaseResult]
    evaluation_seconds: float | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ComparisonResult":
        """Return the result from the dictionary that `dataclasses.asdict` made of it."""
        results = [CaseResult(Case(**result["case"]), result["facts"], result["turns"]) for result in data["results"]]
        return cls(data["question"], data["model"], results, data["evaluation_seconds"])

    def find(self, **fields: Any) -> CaseResult | None:
        """Return the first result whose case has these field values; None if there is none."""
        matching = (result for result in self.results if fields.items() <= dataclasses.asdict(result.case).items())
        return next(matching, None)
