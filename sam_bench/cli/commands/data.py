"""Download and verify a data set.

python -m sam_bench data [data=cifar10] [data.labels=worse] [data.root=FOLDER] [data.timeout=SECONDS]

The labels of human annotators (CIFAR-10N) are verified but not downloaded. If they are missing, a message says where
they are published.
"""

import sys

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sam_bench.cli.arguments import errors_as_messages, parser
from sam_bench.cli.compose import compose
from sam_bench.config.data import DataConfig
from sam_bench.lookup import load


@errors_as_messages()
def main(arguments: list[str]) -> None:
    arguments_parser = parser(__doc__, "data")
    arguments_parser.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE")
    options = arguments_parser.parse_args(arguments)

    from sam_bench.training.build import human_labels, verify_data  # imports torch

    data = compose(options.overrides).data
    if data.spec.files is None:
        sys.exit(f"data={data.name} is generated: there is nothing to download.")

    try:
        obtain(data)
        if (labels := human_labels(data)) is not None:
            verify_data(data)  # checks the file's digest, and that the labels belong to these images
            print(f"CIFAR-10N's labels are in {labels.path}, and every byte is as it should be.")
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing incomplete was kept.")


def obtain(data: DataConfig) -> None:
    """Download a data set's images unless they are there, and verify them, with a progress bar.

    Raises:
        DataError: the images cannot be downloaded, or are not what they should be.
    """
    files = load(data.spec.files)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(files.title, total=None)

        def show_progress(text: str, ready: int) -> None:
            total = len(files.digests) if ready else None  # a download's size is unknown: the bar moves back and forth
            progress.update(task, description=text, total=total, completed=ready)

        folder = files.obtain(data.folder, data.timeout, show_progress)

        progress.update(task, description="verifying", total=None)
        files.read(folder)
        progress.update(task, description="verified", total=1, completed=1)
    print(f"{files.title} is in {folder}, and every byte is as it should be.")
