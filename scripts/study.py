"""Train the rows of a study in conf/study/ over its seeds, and compare them. Finished runs are not repeated.

python scripts/study.py noisy40 --seeds 0,1

Seeds are the outer loop, so that after an interruption all rows have about the same number of seeds. The same command
then continues where it stopped. At the end, the table is written, and the comparison with the study's baselines, which
pairs runs by seed. Settings of all runs, such as trainer.device=cpu, may follow the options.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sam_bench.cli.conf_folder import choices
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup
from sam_bench.report.study import Study
from scripts.arguments import add_config_dir, at_least, errors_as_messages, jobs, parser
from scripts.make_table import make
from scripts.planned_runs import PlannedRun, plan, train


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train the runs and compare them; exit with an error code if a run ends without a result."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("study", help="name of a file in conf/study, or a file of your own")
    arguments_parser.add_argument(
        "--seeds", type=_parse_numbers, help="seeds to train, with commas; else all of the study's"
    )
    add_config_dir(arguments_parser)
    arguments_parser.add_argument(
        "--jobs", default=jobs(), type=at_least(1), help="runs at once, which share the cores"
    )
    arguments_parser.add_argument("overrides", nargs="*", help="settings of all runs")
    options = arguments_parser.parse_intermixed_args(arguments)

    study = Study.read(path_of(options.study, options.config_dir))
    seeds = list(dict.fromkeys(options.seeds or study.seeds))
    study = replace(study, seeds=tuple(dict.fromkeys((*study.seeds, *seeds))))
    planned = plan_study(study, seeds, options.overrides, options.config_dir)
    train(planned, options.jobs, "nothing is compared")

    config = planned[0].config
    folder = config.paths.results_of(study.experiment)
    make(study.experiment, folder, config.data.split, study, options.overrides, options.config_dir)


def path_of(study: str, config_dir: Path | None = None) -> Path:
    """Return the path of a study's file.

    Args:
        study: the name of a file in `conf/study`, or in `study/` in your own folder; or a path that ends in ".yaml".
        config_dir: your own folder, if any.

    Raises:
        ConfigError: there is no study of this name, or no file at this path.
    """
    if study.endswith(".yaml"):
        if not Path(study).is_file():
            raise ConfigError(f"{study} is not a file")
        return Path(study)
    files = choices("study", config_dir)
    lookup(files, study, "study")
    return files[study]


def plan_study(
    study: Study, seeds: Sequence[int], extra: Sequence[str] = (), config_dir: Path | None = None
) -> list[PlannedRun]:
    """Compose and check all runs of a study, seed by seed.

    Args:
        extra: settings of all runs in addition to those of the study.

    Raises:
        ConfigError: two rows give the same run, or a row has invalid settings.
    """
    planned = plan(study.runs(seeds, extra), config_dir)
    titles: dict[Path, str] = {}
    for run in planned:
        if (other := titles.setdefault(run.files.record, run.title)) != run.title:
            raise ConfigError(f"{other} and {run.title} are the same run: remove one of them from the study")
    return planned


def _parse_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main(sys.argv[1:])
