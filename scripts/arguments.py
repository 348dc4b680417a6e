"""Helpers for the command lines of the scripts."""

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
    """A formatter that keeps the description's line breaks and shows the default of each option with a help text."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the script's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter, allow_abbrev=False)


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn a `UserError` into one message and exit code 1, without a traceback.

    An output stream that fails, as with `| head`, does not end the script.
    """
    with lossy_output():
        try:
            yield
        except UserError as error:
            sys.exit(f"Error: {error}")


def name_of(table: Mapping[str, Any], kind: str) -> Callable[[str], str]:
    """Return an option type that accepts the names in the table."""

    def name(text: str) -> str:
        try:
            lookup(table, text, kind)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return name


def names_of(table: Mapping[str, Any], kind: str) -> Callable[[str], list[str]]:
    """Return an option type that accepts names in the table, separated by commas."""
    name = name_of(table, kind)
    return lambda text: [name(each) for each in text.split(",")]


def method_names(text: str) -> list[str]:
    """Return the value of an option: method names separated by commas, or "all"."""
    load_installed()
    return list(METHODS) if text == "all" else names_of(METHODS, "optimizer")(text)


def add_config_dir(arguments_parser: argparse.ArgumentParser) -> None:
    """Add the option `--config-dir`, with the same meaning as in `python -m sam_bench`."""

    def folder(text: str) -> Path:
        if not Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"{text} is not a folder")
        return Path(text)

    arguments_parser.add_argument("--config-dir", type=folder, help="your own folder, searched before conf/")


def jobs() -> int:
    """Return how many runs to train at once for the best throughput: two on a CPU with several cores, one on a GPU."""
    import torch  # here, because some scripts do not need it

    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    """Return an option type that accepts numbers of at least `least`."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number
