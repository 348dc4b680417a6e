"""Tune methods under an experiment, with the same number of trials each, on images held out of the training set.

python -m sam_bench tune --experiment noisy40 --methods sgd,sam --trials 12

A trial is a run with data.split=val, which does not use the test set. A method's first trial has the preset's values;
the others are points of a Sobol sequence in its ranges (conf/tune.yaml). The trial with the lowest held-out error
in the last epoch is the best. Its values are written to conf/tuned/<experiment>_<method>.yaml. Every later run uses
them, unless it is started with ~tuned. All trials are written to results/<experiment>/tuning.{md,csv}.

With --config-dir mine, both are written to mine/tuned/, and runs with --config-dir mine use the values. Presets and
ranges may be in mine/ too. After an interruption, the same command continues where it stopped; with more trials, it
keeps those that are done. With --only optimizer.rho, only the radius is tuned, for methods that have one.

Settings of all trials, such as trainer.device=cpu or plugin=mine.py, may follow the options.
"""

import argparse

from sam_bench.cli.arguments import add_config_dir, add_jobs, at_least, errors_as_messages, method_names, parser
from sam_bench.cli.compose import load_plugins, names_plugin


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "tune")
    arguments_parser.add_argument("--experiment", required=True, help="preset to tune")
    arguments_parser.add_argument(
        "--methods", default="sgd,sam,asam,gsam", help="methods with commas between them, or all"
    )
    arguments_parser.add_argument("--trials", default=12, type=at_least(1), help="number of trials of each method")
    arguments_parser.add_argument("--only", default="", help="settings to tune, with commas between them; else all")
    add_jobs(arguments_parser)
    add_config_dir(arguments_parser)
    arguments_parser.add_argument("overrides", nargs="*", help="settings of all trials")
    options = arguments_parser.parse_intermixed_args(arguments)

    # Methods may be defined by a plug-in, so their names are checked after it is loaded.
    load_plugins(options.overrides)
    try:
        methods = method_names(options.methods)
    except argparse.ArgumentTypeError as error:
        arguments_parser.error(f"argument --methods: {error}")

    from sam_bench.cli.tuned_files import Search
    from sam_bench.cli.tuning import tune

    # The plug-in is code, and no setting of the protocol.
    settings = [override for override in options.overrides if not names_plugin(override)]
    search = Search(options.trials, " ".join(settings), options.only)
    tune(options.experiment, methods, search, options.overrides, options.jobs, options.config_dir)
