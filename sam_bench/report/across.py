"""The planned comparisons of all studies side by side, and the average of each over the studies."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sam_bench.report.comparison import in_short, signed
from sam_bench.report.differences import ALPHA, Difference, Interval
from sam_bench.report.markup import markdown
from sam_bench.report.pooling import FEWEST_STUDIES, Pooled, pool
from sam_bench.report.rows import distinct
from sam_bench.report.table import Findings
from sam_bench.runs.files import write_atomically

#: The headings of the pooled estimates, and of how far the studies differ.
AVERAGE, HETEROGENEITY = "average over studies", "scatter τ between studies"


@dataclass(frozen=True)
class Line:
    """A planned comparison in all studies.

    Args:
        title: what is compared.
        cells: the difference in each study, by its name; None if the study does not have it.
        pooled: the average over studies; None for fewer than `FEWEST_STUDIES` independent ones.
        draws: the number of draws of images and labels behind the average.
        base: the title of the row that is subtracted.
    """

    title: str
    cells: Mapping[str, Difference | None]
    pooled: Pooled | None
    draws: int
    base: str

    @property
    def heterogeneity(self) -> str:
        """Return how far the studies differ, and how many there are; "–" without an average."""
        if self.pooled is None:
            return "–"
        return f"τ {self.pooled.scatter:.2f}, {self.pooled.studies} studies on {self.draws} draws"


@dataclass(frozen=True)
class Data:
    """The data, network and augmentation of a study, which decide whether two studies are independent.

    Args:
        draws: the digests of its draws of images and labels.
        training: network and augmentation.
    """

    draws: frozenset[str]
    training: tuple[Any, ...]

    @classmethod
    def of(cls, findings: Findings) -> "Data":
        config = findings.records[0]["config"]
        augmentation = tuple(config["data"].get(key) for key in ("crop", "flip", "cutout"))
        network = config["model"].get("arch") or config["model"]["name"]
        return cls(frozenset(record["dataset_sha256"] for record in findings.records), (network, *augmentation))

    def is_shared_with(self, other: "Data") -> bool:
        return self.training == other.training and bool(self.draws & other.draws)


def across(studies: Mapping[str, Findings]) -> list[Line]:
    """Return a line for each planned comparison, in the order of the studies, with its average.

    Studies that share a draw of images and labels, the network and the augmentation count as one: the mean of their
    differences. Only studies with the most common margin are averaged, since one margin cannot serve two scales.
    """
    cells: dict[str, dict[str, Difference]] = {}
    bases: dict[str, str] = {}
    for name, findings in studies.items():
        comparison = findings.comparison
        for row, base in comparison.planned:
            if (row, base) in comparison.differences:
                title = f"{row.title} − {base.title}{comparison.equal_in((row, base))}"
                cells.setdefault(title, {})[name] = comparison.differences[row, base]
                bases[title] = base.title

    data = {name: Data.of(findings) for name, findings in studies.items()}
    margins = Counter(findings.comparison.margin for findings in studies.values())
    margin = margins.most_common(1)[0][0] if margins else 0
    lines = []
    for title, of_title in cells.items():
        averaged = [name for name, each in of_title.items() if each.verdict and each.margin == margin]
        groups = independent_groups({name: data[name] for name in averaged})
        estimates = [_mean_of([of_title[name] for name in group]) for group in groups]
        pooled = pool(estimates, margin) if len(groups) >= FEWEST_STUDIES else None
        draws = len(frozenset[str]().union(*(data[name].draws for name in averaged)))
        lines.append(Line(title, {name: of_title.get(name) for name in studies}, pooled, draws, bases[title]))
    return lines


def independent_groups(data: Mapping[str, Data]) -> list[list[str]]:
    """Return the names of studies in groups; two groups share no draw, or differ in network or augmentation."""
    groups: list[list[str]] = []
    for name, each in data.items():
        shared = [group for group in groups if any(each.is_shared_with(data[other]) for other in group)]
        groups = [group for group in groups if group not in shared]
        groups.append([*(other for group in shared for other in group), name])
    return groups


def _mean_of(differences: Sequence[Difference]) -> tuple[float, float]:
    """Return the mean of differences and its standard error, their runs being independent."""
    count = len(differences)
    squares = sum(each.estimate.error**2 for each in differences)
    return sum(each.mean for each in differences) / count, math.sqrt(squares) / count


def false_claims(studies: Mapping[str, Findings], lines: Sequence[Line]) -> float:
    """Return the most false verdicts to expect: 5 % of each family of differences, and of each average."""
    families = sum(findings.comparison.families for findings in studies.values())
    return ALPHA * (families + sum(line.pooled is not None for line in lines))


def in_words(pooled: Pooled) -> str:
    """Return an average with its interval."""
    low, high = pooled.interval
    return f"{signed(pooled.mean)} ({signed(low)} to {signed(high)})"


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the Markdown table of the comparisons, a column for each study and two for the average."""
    names = distinct(name for line in lines for name in line.cells)
    cells = []
    for line in lines:
        average = f"{in_words(line.pooled)} {line.pooled.verdict}" if line.pooled else "–"
        cells.append([line.title, *(in_short(line.cells[name]) for name in names), average, line.heterogeneity])
    return markdown(["points of test error", *(f"`{name}`" for name in names), AVERAGE, HETEROGENEITY], cells)


def as_frame(lines: Sequence[Line]) -> pd.DataFrame:
    """Return a line for each comparison in each study, and for each average, rounded to six decimals."""
    entries = []
    for line in lines:
        for name, each in line.cells.items():
            if each is not None:
                entries.append(_entry(line, name, each.mean, each.estimate.error, each.simultaneous, each.verdict))
        if (pooled := line.pooled) is not None:
            entry = _entry(line, AVERAGE, pooled.mean, pooled.error, pooled.interval, pooled.verdict)
            entry |= {"scatter": pooled.scatter, "inconsistency": pooled.inconsistency}
            entries.append(entry | {"independent_studies": pooled.studies, "draws": line.draws})
    return pd.DataFrame(entries).round(6)


def write_across(lines: Sequence[Line], expected: float, folder: Path) -> None:
    """Write `across.md` and `.csv` to `folder`.

    Args:
        expected: the most false verdicts to expect, as `false_claims` returns it.
    """
    text = f"{as_markdown(lines)}\n\nFalse verdicts to expect in all studies and averages: at most {expected:.2f}.\n"
    write_atomically(folder / "across.md", text.encode())
    write_atomically(folder / "across.csv", as_frame(lines).to_csv(index=False).encode())


def _entry(
    line: Line, study: str, mean: float, error: float, interval: Interval, verdict: str | None
) -> dict[str, Any]:
    return {
        "comparison": line.title,
        "study": study,
        "difference": mean,
        "standard_error": error,
        "low": interval[0],
        "high": interval[1],
        "verdict": verdict,
    }
