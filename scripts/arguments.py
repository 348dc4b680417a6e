"""What the command lines of the scripts share."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sam_bench.errors import ConfigError, UserError
from sam_bench.lookup import lookup
from sam_bench.optim.registry import METHODS
from sam_bench.plugins import load_installed
from sam_bench.runtime.output import lossy_output


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of a description, and shows the default of every option that has a help text."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter, allow_abbrev=False)


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """End with exit code 1 and one message, without a traceback, on what the user can put right.

    An output stream that fails, as of `| head`, does not end the script.
    """
    with lossy_output():
        try:
            yield
        except UserError as error:
            sys.exit(f"Error: {error}")


def name_of(table: Mapping[str, Any], kind: str) -> Callable[[str], str]:
    """Return an option's type: a name that the table has."""

    def name(text: str) -> str:
        try:
            lookup(table, text, kind)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return name


def names_of(table: Mapping[str, Any], kind: str) -> Callable[[str], list[str]]:
    """Return an option's type: names that the table has, with commas between them."""
    name = name_of(table, kind)
    return lambda text: [name(each) for each in text.split(",")]


def method_names(text: str) -> list[str]:
    """Return an option's value: names of methods with commas between them, or all."""
    load_installed()
    return list(METHODS) if text == "all" else names_of(METHODS, "optimizer")(text)


def add_config_dir(words: argparse.ArgumentParser) -> None:
    """Add the option `--config-dir`, which means what it means to `python -m sam_bench`."""

    def folder(text: str) -> Path:
        if not Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"{text} is no folder")
        return Path(text)

    words.add_argument("--config-dir", type=folder, help="folder of your own, its files come before those of conf/")


def jobs() -> int:
    """Return how many runs at once get most done: two on the cores of a CPU, one on a GPU."""
    import torch  # which some scripts do without

    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    """Return an option's type: numbers that are not below the least one."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number
