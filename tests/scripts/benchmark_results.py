"""Made-up results of the benchmark."""

import dataclasses

from scripts.benchmark.records import Case, CaseResult, ComparisonResult

BARE = Case("lower bound", engine="eager")
COMPILED = Case("lower bound", engine="compile")
SGD = Case("ours", method="sgd")
SAM = Case("ours", method="sam")
LOOKSAM = Case("ours", method="looksam")


def turns(*seconds: float, passes: float = 0.0) -> list[dict]:
    """Return a turn of a case for each of the seconds."""
    return [{"seconds": s, "passes": passes, "peak_memory_bytes": 2**20} for s in seconds]


def comparison_results() -> list[ComparisonResult]:
    """Return the results of a machine whose pass takes a second, and whose steps take 1.25 times their passes."""
    lower_bound = [
        CaseResult(BARE, {"flop": 10**12}, turns(2, 2, 2)),
        CaseResult(COMPILED, {}, turns(1, 1, 1)),
        CaseResult(SGD, {}, turns(1.25, 1.25, 1.25, passes=1)),
        CaseResult(SAM, {"engine": "eager"}, turns(2.5, 2.5, 2.5, passes=2)),
        CaseResult(Case("batches"), {}, turns(0.025, 0.025, 0.025)),
        CaseResult(Case("matmul"), {"flop": 10**13}, turns(1, 1, 1)),
    ]
    users_loop = [
        CaseResult(SAM, {}, turns(2, 4, 2)),
        CaseResult(Case("user's loop", precision="fp32"), {}, turns(6, 8, 6)),
        CaseResult(Case("user's loop", precision="autocast"), {}, turns(3, 6, 3)),
    ]
    method = [
        CaseResult(BARE, {}, turns(2, 2, 2)),
        CaseResult(SGD, {}, turns(1, 1, 1, passes=1)),
        CaseResult(LOOKSAM, {}, turns(1.8, 1.8, 1.8, passes=1.2)),
    ]
    batch_size = [
        CaseResult(dataclasses.replace(BARE, batch_size=64), {}, turns(1, 1, 1)),
        CaseResult(dataclasses.replace(SAM, batch_size=64), {}, turns(2.2, 2.2, 2.2, passes=2)),
    ]
    engines = [
        CaseResult(dataclasses.replace(SAM, engine="eager"), {"engine": "eager"}, turns(2, 2, 2, passes=2)),
        CaseResult(dataclasses.replace(SAM, engine="compile"), {"engine": "eager"}, turns(1, 1, 1, passes=2)),
    ]

    return [
        ComparisonResult("lower bound", "resnet8", lower_bound, evaluation_seconds=9.775),
        ComparisonResult("user's loop", "resnet8", users_loop),
        ComparisonResult("method", "resnet8", method),
        ComparisonResult("batch size", "resnet20", batch_size),
        ComparisonResult("engines", "resnet8", engines),
    ]
