"""Keep the last weights of finished runs beside their records, without what only a resume needs.

python scripts/keep_weights.py --experiment noisy40_shared

From the last checkpoint of each run in runs/<experiment> to results/<experiment>/weights/<run>.pt, which
`model.load_state_dict(torch.load(path, weights_only=True))` reads. These are the weights that were trained, also where
averages of them were evaluated (`averaging=`, schedule-free bases). What is there already stays.
"""

import io
import sys
from pathlib import Path

import torch

from sam_bench.errors import StateError
from sam_bench.report.table import read_records
from sam_bench.runs.files import write_atomically
from sam_bench.runs.finished import checkpoint_weights, same
from scripts.arguments import errors_as_messages, parser


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("--experiment", required=True)
    words.add_argument("--split", default="test", choices=("test", "val"), help="what the runs' errors are counted on")
    words.add_argument("--results", default=Path("results"), type=Path, help="folder with a folder for each experiment")
    words.add_argument("--runs", default=Path("runs"), type=Path, help="folder with the checkpoints")
    options = words.parse_args(arguments)
    folder = options.results / options.experiment
    records = read_records(folder / "records", options.split)
    if not records:
        sys.exit(f"Error: there are no records with data.split={options.split} in {folder / 'records'}")
    without = []
    for record in records:
        path = folder / "weights" / f"{record['run_id']}.pt"
        weights = checkpoint_weights(record, options.runs / options.experiment / record["run_id"])
        if path.exists():
            if weights is not None and not same(weights, torch.load(path, weights_only=True)):
                raise StateError(f"{path} has other weights than the run's last checkpoint: move it away")
            continue
        if weights is None:
            without.append(record["run_id"])
            continue
        content = io.BytesIO()
        torch.save(weights, content)
        write_atomically(path, content.getbuffer())
    print(f"{len(records) - len(without)} of {len(records)} runs have their weights in {folder / 'weights'}")
    if without:
        print(f"Without a checkpoint in {options.runs / options.experiment}: {', '.join(without)}")


if __name__ == "__main__":
    main(sys.argv[1:])
