"""Train the rows of a comparison, those of a file in conf/study/, over its seeds; what is finished stays as it is.

python scripts/study.py noisy40 --seeds 0,1

Seeds are the outer loop: interrupted, all rows have about as many, and the same command goes on where it was. At the
end the table is made, and the comparison with the study's baselines, seed by seed. What follows the options are
settings of all runs, such as trainer.device=cpu.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sam_bench.cli.compose import choices
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup
from sam_bench.report.comparison import Comparison
from sam_bench.runs.files import write_atomically
from scripts.arguments import at_least, errors_as_messages, jobs, parser
from scripts.make_table import make
from scripts.planned_runs import PlannedRun, plan, train


@dataclass(frozen=True)
class Study:
    """A comparison.

    Args:
        experiment: the preset.
        seeds: of every row.
        baselines: the rows with which the others are compared.
        rows: by title, what its runs are told beside the preset and the seed.
    """

    experiment: str
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    rows: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a file of `conf/study`.

        Raises:
            ConfigError: it is none.
        """
        values: Any = OmegaConf.to_container(OmegaConf.load(path))
        expected = {"experiment": str, "seeds": list, "baselines": list, "rows": dict}
        if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != expected:
            raise ConfigError(
                f"{path} must have experiment, a name, seeds, a list, baselines, a list, and rows, a mapping; no more"
            )
        rows = {str(title): str(overrides).split() for title, overrides in values["rows"].items()}
        for baseline in values["baselines"]:
            lookup(rows, baseline, f"{path}: baseline")
        return cls(values["experiment"], tuple(values["seeds"]), tuple(values["baselines"]), rows)

    def runs(self, seeds: Sequence[int], extra: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
        """Title and overrides of each run, seed by seed."""
        return [
            (f"{title}  seed {seed}", [f"experiment={self.experiment}", *overrides, f"seed={seed}", *extra])
            for seed in seeds
            for title, overrides in self.rows.items()
        ]


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train and compare; ends this process with an exit code where a run is left without a result."""
    words = parser(__doc__)
    words.add_argument("study", help="name of a file in conf/study, or a file of your own")
    words.add_argument("--seeds", type=_numbers, help="those of these seeds; else all of the study's")
    words.add_argument("--jobs", default=jobs(), type=at_least(1), help="runs at once, which share the cores")
    words.add_argument("overrides", nargs="*", help="settings of all runs")
    options = words.parse_intermixed_args(arguments)
    study = Study.read(path_of(options.study))
    seeds = list(dict.fromkeys(options.seeds or study.seeds))
    planned = plan_study(study, seeds, options.overrides)
    train(planned, options.jobs, "nothing is compared")
    config = planned[0].config
    folder = config.paths.results_of(study.experiment)
    make(study.experiment, folder, config.data.split)
    records = [run.files.finished() for run in planned]
    rows = {title: records[i :: len(study.rows)] for i, title in enumerate(study.rows)}
    found = Comparison.of(rows, study.baselines)
    text = found.as_markdown()
    write_atomically(folder / "comparison.md", text.encode())
    write_atomically(folder / "comparison.csv", found.as_frame().to_csv(index=False).encode())
    print(f"{text}\nWritten: {folder}/comparison.csv and .md")


def path_of(study: str) -> Path:
    """Return the file of a study: one of ours by its name, or one of your own by its path.

    Raises:
        ConfigError: there is none.
    """
    if study.endswith(".yaml"):
        if not Path(study).is_file():
            raise ConfigError(f"{study} is no file")
        return Path(study)
    files = choices("study")
    lookup(files, study, "study")
    return files[study]


def plan_study(study: Study, seeds: Sequence[int], extra: Sequence[str] = ()) -> list[PlannedRun]:
    """Compose and check all runs.

    Raises:
        ConfigError: two rows are one, or one of them cannot be run.
    """
    planned = plan(study.runs(seeds, extra))
    titles: dict[Path, str] = {}
    for run in planned:
        if (other := titles.setdefault(run.files.record, run.title)) != run.title:
            raise ConfigError(f"{other} and {run.title} are one run: take one of them out")
    return planned


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


if __name__ == "__main__":
    main(sys.argv[1:])
