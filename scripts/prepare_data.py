"""Obtain and verify a data set.

python scripts/prepare_data.py [data=cifar10] [data.labels=worse] [data.root=FOLDER] [data.timeout=SECONDS]

Labels that people gave (CIFAR-10N) are verified, and not obtained: what is missing is said, and where it is published.
"""

import sys

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sam_bench.cli.compose import compose
from sam_bench.lookup import load
from sam_bench.training.build import human_labels, verify_data
from scripts.arguments import errors_as_messages, parser


@errors_as_messages()
def main(arguments: list[str]) -> None:
    words = parser(__doc__)
    words.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE")
    data = compose(words.parse_args(arguments).overrides).data
    if data.spec.files is None:
        sys.exit(f"data={data.name} is generated: there is nothing to obtain.")
    files = load(data.spec.files)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(files.title, total=None)

        def tell(text: str, ready: int) -> None:
            total = len(files.digests) if ready else None  # a download has no known end: the bar runs to and fro
            progress.update(task, description=text, total=total, completed=ready)

        folder = files.obtain(data.folder, data.timeout, tell)
        progress.update(task, description="verifying", total=None)
        files.read(folder)
        progress.update(task, description="verified", total=1, completed=1)
    print(f"{files.title} is in {folder}, and every byte is as it should be.")

    if (labels := human_labels(data)) is not None:
        verify_data(data)  # the file's digest, and that it is of these images
        print(f"CIFAR-10N's labels are in {labels.path}, and every byte is as it should be.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing incomplete was kept.")
