"""Keep the last weights of finished runs beside their records, without the state that only a resume needs.

python -m sam_bench weights --experiment noisy40_shared

The weights go from the last checkpoint of each run in runs/<experiment> to results/<experiment>/weights/<run>.pt. Read
them with `model.load_state_dict(torch.load(path, weights_only=True))`. They are always the trained weights, even if the
run evaluated an average of them (`averaging=`, schedule-free bases). Existing files are kept.
"""

import io
import sys
from pathlib import Path

from sam_bench.cli.arguments import add_results, add_split, errors_as_messages, parser
from sam_bench.errors import StateError
from sam_bench.runs.files import write_atomically


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "weights")
    arguments_parser.add_argument("--experiment", required=True)
    add_split(arguments_parser)
    add_results(arguments_parser)
    arguments_parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder with the checkpoints")
    options = arguments_parser.parse_args(arguments)

    import torch

    from sam_bench.report.table import read_records
    from sam_bench.runs.finished import checkpoint_weights, same

    folder = options.results / options.experiment
    records = read_records(folder / "records", options.split)
    if not records:
        sys.exit(f"Error: there are no records with data.split={options.split} in {folder / 'records'}")

    without_weights = []
    for record in records:
        path = folder / "weights" / f"{record['run_id']}.pt"
        weights = checkpoint_weights(record, options.runs / options.experiment / record["run_id"])

        if path.exists():
            if weights is not None and not same(weights, torch.load(path, weights_only=True)):
                raise StateError(f"{path} has other weights than the run's last checkpoint: move it away")
            continue
        if weights is None:
            without_weights.append(record["run_id"])
            continue

        # Torch writes to memory first, so that the file appears complete or not at all.
        content = io.BytesIO()
        torch.save(weights, content)
        write_atomically(path, content.getbuffer())

    print(f"{len(records) - len(without_weights)} of {len(records)} runs have their weights in {folder / 'weights'}")
    if without_weights:
        print(f"Without a checkpoint in {options.runs / options.experiment}: {', '.join(without_weights)}")
