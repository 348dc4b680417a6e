"""Train the rows of a comparison, those of a file in conf/study/, over its seeds; what is finished stays as it is.

python scripts/study.py noisy40 --seeds 0,1

Seeds are the outer loop: interrupted, all rows have about as many, and the same command goes on where it was. At the
end the table is made, and the comparison with the study's baselines, seed by seed. What follows the options are
settings of all runs, such as trainer.device=cpu.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sam_bench.cli.compose import choices
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup
from sam_bench.report.study import Study
from scripts.arguments import add_config_dir, at_least, errors_as_messages, jobs, parser
from scripts.make_table import make
from scripts.planned_runs import PlannedRun, plan, train


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train and compare; ends this process with an exit code where a run is left without a result."""
    words = parser(__doc__)
    words.add_argument("study", help="name of a file in conf/study, or a file of your own")
    words.add_argument("--seeds", type=_numbers, help="of which runs are trained; else all of the study's")
    add_config_dir(words)
    words.add_argument("--jobs", default=jobs(), type=at_least(1), help="runs at once, which share the cores")
    words.add_argument("overrides", nargs="*", help="settings of all runs")
    options = words.parse_intermixed_args(arguments)
    study = Study.read(path_of(options.study, options.config_dir))
    seeds = list(dict.fromkeys(options.seeds or study.seeds))
    study = replace(study, seeds=tuple(dict.fromkeys((*study.seeds, *seeds))))
    planned = plan_study(study, seeds, options.overrides, options.config_dir)
    train(planned, options.jobs, "nothing is compared")
    config = planned[0].config
    folder = config.paths.results_of(study.experiment)
    make(study.experiment, folder, config.data.split, study, options.overrides, options.config_dir)


def path_of(study: str, config_dir: Path | None = None) -> Path:
    """Return the file of a study: one of `conf/study` or of `study/` in a folder of yours by its name, any by its path.

    Raises:
        ConfigError: there is none.
    """
    if study.endswith(".yaml"):
        if not Path(study).is_file():
            raise ConfigError(f"{study} is no file")
        return Path(study)
    files = choices("study", config_dir)
    lookup(files, study, "study")
    return files[study]


def plan_study(
    study: Study, seeds: Sequence[int], extra: Sequence[str] = (), config_dir: Path | None = None
) -> list[PlannedRun]:
    """Compose and check all runs.

    Raises:
        ConfigError: two rows are one, or one of them cannot be run.
    """
    planned = plan(study.runs(seeds, extra), config_dir)
    titles: dict[Path, str] = {}
    for run in planned:
        if (other := titles.setdefault(run.files.record, run.title)) != run.title:
            raise ConfigError(f"{other} and {run.title} are one run: take one of them out")
    return planned


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


if __name__ == "__main__":
    main(sys.argv[1:])
