"""Measure the sharpness of the loss around the weights of finished runs, or compute slices through it. Trains nothing.

python -m sam_bench analyse run=RUN_ID
python -m sam_bench analyse experiment=noisy40 --rows 'SGD;SAM' --seeds 0,1
python -m sam_bench analyse experiment=noisy40 --rows 'SGD;SAM' --seeds 0 --landscape plane
python -m sam_bench analyse run=RUN_ID,RUN_ID --landscape between

The weights come from each run's last checkpoint, or from the file that the command weights wrote. Runs that average
weights are analysed at the trained weights, not at the average. The loss is measured on training images, without
augmentation, in float32. The results are written beside the records:
  results/<experiment>/analysis/<run>.json           measures
  results/<experiment>/analysis/<run>-batch.json     measures with analysis=batch_statistics
  results/<experiment>/landscape/<kind>-<run>.json   slices
A file that was made from the same weights, images and settings is kept; any other file there is an error.

Settings may follow the options, in the form that python -m sam_bench takes: analysis.images=500, data.root=data,
paths.results=results/measured. The default is analysis=full. With --landscape between, the two solutions are at 0 and
1, and BatchNorm's running statistics are estimated again at every point. The command report, with --results results,
makes tables and figures from the results.
"""

from sam_bench.cli.arguments import at_least, errors_as_messages, numbers, parser
from sam_bench.cli.compose import compose
from sam_bench.config.fields import path_of
from sam_bench.errors import ConfigError, ResourceError
from sam_bench.plugins import load_installed

#: Kinds of slices: through a solution along one random direction, or along two, or straight between two solutions.
KINDS = ("line", "plane", "between")


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "analyse")
    arguments_parser.add_argument(
        "what", help="run=RUN_ID, with --landscape between run=RUN_ID,RUN_ID, or experiment=NAME"
    )
    arguments_parser.add_argument(
        "--rows", default="", help="rows of the experiment's table, separated by semicolons; else all"
    )
    arguments_parser.add_argument(
        "--seeds", default=[], type=numbers, help="seeds of the experiment, with commas; else all"
    )
    arguments_parser.add_argument(
        "--landscape", choices=KINDS, help="compute a slice of the loss instead of measuring sharpness"
    )
    arguments_parser.add_argument(
        "--points", default=21, type=at_least(3), help="points of a slice along each direction, odd"
    )
    arguments_parser.add_argument(
        "--span", default=1.0, type=at_least(0.0, float), help="reach of a line or plane to each side"
    )
    arguments_parser.add_argument("overrides", nargs="*", help="settings, such as analysis.images=500")
    options = arguments_parser.parse_intermixed_args(arguments)

    from rich.progress import Progress

    from sam_bench.analysis.spectrum import NotConverged
    from sam_bench.cli.analysis import Slice, analyse, select_runs

    load_installed()
    config = compose(["analysis=full", *options.overrides])
    if config.analysis.is_off:
        raise ConfigError("analysis=none measures nothing. Choose analysis=full or another one.")
    if not options.points % 2:
        raise ConfigError(f"--points {options.points} must be odd, so that the solution is one of the points")

    loss_slice = Slice(options.landscape, options.points, options.span) if options.landscape else None
    results = path_of("paths.results", config.paths.results)
    runs = select_runs(results, options.what, options.rows, options.seeds)
    if any(len(group) != (2 if options.landscape == "between" else 1) for group in runs):
        raise ConfigError("--landscape between needs run=RUN_ID,RUN_ID; without it, give one run, run=RUN_ID")

    failures = []
    with Progress() as progress:
        runs_task = progress.add_task("runs", total=len(runs))
        for group in runs:
            try:
                message = str(analyse(group, config, loss_slice, progress))
            except NotConverged as error:
                failures.append(f"{group[0].record['run_id']}: {error}")
                message = failures[-1]
            progress.console.print(message, highlight=False, soft_wrap=True)
            progress.advance(runs_task)
    if failures:
        raise ResourceError(f"{len(failures)} of {len(runs)} runs: no eigenvalues found. Raise analysis.tolerance.")
