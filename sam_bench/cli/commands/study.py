"""Train the rows of a study in conf/study/ over its seeds, and compare them. Finished runs are not repeated.

python -m sam_bench study noisy40 --seeds 0,1

Seeds are the outer loop, so that after an interruption all rows have about the same number of seeds. The same command
then continues where it stopped. At the end, the table is written, and the comparison with the study's baselines, which
pairs runs by seed. Settings of all runs, such as trainer.device=cpu, may follow the options.
"""

import sys
import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sam_bench.cli.arguments import add_config_dir, add_jobs, errors_as_messages, numbers, parser
from sam_bench.cli.conf_folder import choices
from sam_bench.cli.parallel import PlannedRun, plan, train
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup

if typing.TYPE_CHECKING:
    from sam_bench.report.study import Study


@errors_as_messages()
def main(arguments: list[str]) -> None:
    """Train the runs and compare them; exit with an error code if a run ends without a result."""
    arguments_parser = parser(__doc__, "study")
    arguments_parser.add_argument("study", help="name of a file in conf/study, or a file of your own")
    arguments_parser.add_argument("--seeds", type=numbers, help="seeds to train, with commas; else all of the study's")
    add_config_dir(arguments_parser)
    add_jobs(arguments_parser)
    arguments_parser.add_argument("overrides", nargs="*", help="settings of all runs")
    options = arguments_parser.parse_intermixed_args(arguments)

    from sam_bench.cli.tables import make_tables
    from sam_bench.report.study import Study

    study = Study.read(path_of(options.study, options.config_dir))
    seeds = options.seeds or list(dict.fromkeys(study.seeds))
    study = replace(study, seeds=tuple(dict.fromkeys((*study.seeds, *seeds))))
    planned = plan_study(study, seeds, options.overrides, options.config_dir)
    if code := train(planned, options.jobs, "nothing is compared"):
        sys.exit(code)

    config = planned[0].config
    folder = config.paths.results_of(study.experiment)
    make_tables(study.experiment, folder, config.data.split, study, options.overrides, options.config_dir)


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
    study: "Study", seeds: Sequence[int], extra: Sequence[str] = (), config_dir: Path | None = None
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
