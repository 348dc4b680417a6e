"""Sync finished runs, and the tables made from them, to Weights & Biases.

python -m sam_bench sync --experiment noisy40 --results results/measured

Each record becomes the W&B run that `logger=wandb` would have made during training, with the same id, group, settings,
curves and summary. One more run, the experiment's report, has its tables, figures and texts. `synced.json`, beside
W&B's files, lists the synced runs. Repeating the command therefore adds only what is new.
"""

import shlex
from pathlib import Path

from sam_bench.cli.arguments import add_results, errors_as_messages, parser
from sam_bench.cli.wandb_sync import Sync, Task, task_of_record, task_of_report
from sam_bench.errors import StateError
from sam_bench.loggers.wandb import Settings
from sam_bench.runs.lock import RunLock


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "sync")
    arguments_parser.add_argument("--experiment", required=True, help="experiment whose records are synced")
    add_results(arguments_parser)
    arguments_parser.add_argument("--project", default="sam_bench", help="project in W&B")
    arguments_parser.add_argument("--entity", help="user or team in W&B; else your own")
    arguments_parser.add_argument(
        "--mode", default="offline", choices=("offline", "online"), help="write files, or send to the server"
    )
    arguments_parser.add_argument("--out", default=Path("runs"), type=Path, help="folder that gets the folder wandb")
    options = arguments_parser.parse_args(arguments)

    settings = Settings(mode=options.mode, project=options.project, entity=options.entity)
    folder = options.results / options.experiment
    tasks = [task_of_record(path) for path in sorted((folder / "records").glob("*.json"))]
    if not tasks:
        raise StateError(f"there are no records in {folder / 'records'}; run the experiment first")
    report = task_of_report(options.experiment, folder)

    lock = RunLock(options.out / "wandb" / "sync.lock")
    try:
        sync_all(tasks, report, Sync(settings, options.out))
    finally:
        lock.release()


def sync_all(tasks: list[Task], report: Task | None, sync: Sync) -> None:
    """Sync runs and their report, and print what was done.

    Raises:
        StateError: W&B failed, or has a run with different content.
    """
    synced = 0
    for number, task in enumerate(tasks, start=1):
        if sync(task):
            synced += 1
            print(f"{number}/{len(tasks)}  {task.name}", flush=True)

    synced_before = len(tasks) - synced - len(sync.changed) - len(sync.mirrored)
    report_state = "there is no report" if report is None else "report synced" if sync(report) else "report unchanged"
    print(f"{synced} runs synced, {synced_before} synced before; {report_state}")
    if sync.mirrored:
        print(f"{len(sync.mirrored)} runs were sent to W&B during training; --mode online adds what is missing there")
    if count := sync.waiting():
        print(f"{count} files are not uploaded yet. Upload them: {shlex.join(['wandb', 'sync', str(sync.folder)])}")
    if sync.changed:
        raise StateError(
            f"{', '.join(sync.changed)}: W&B has different content under this id and keeps it. Was the run repeated? "
            "Choose another --project for the new one."
        )
