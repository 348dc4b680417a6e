"""Helpers for the arguments of commands."""

import argparse
import contextlib
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
    """A formatter that keeps the description's line breaks, and shows the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", []) else super()._get_help_string(action)


def parser(description: str | None, command: str | None = None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with a docstring.

    Args:
        command: name of the command of `sam-bench` that is parsed; None for a script.
    """
    program = f"sam-bench {command}" if command else None
    return argparse.ArgumentParser(program, description=description, formatter_class=_Formatter, allow_abbrev=False)


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn a `UserError` into one message and exit code 1, without a traceback.

    An output stream that fails, as with `| head`, does not end the command.
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


def numbers(text: str) -> list[int]:
    """Return the value of an option: different integers separated by commas."""
    return list(dict.fromkeys(int(number) for number in text.split(",")))


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    """Return an option type that accepts numbers of at least `least`."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number


def add_config_dir(arguments_parser: argparse.ArgumentParser) -> None:
    """Add the option `--config-dir`, with the same meaning as in `python -m sam_bench`."""

    def folder(text: str) -> Path:
        if not Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"{text} is not a folder")
        return Path(text)

    arguments_parser.add_argument("--config-dir", type=folder, help="your own folder, searched before conf/")


def add_jobs(arguments_parser: argparse.ArgumentParser) -> None:
    """Add the option `--jobs`, which is None if it is not given."""
    arguments_parser.add_argument(
        "--jobs", type=at_least(1), help="runs at once, which share the cores; by default one on a GPU, else two"
    )


def add_results(arguments_parser: argparse.ArgumentParser, default: Path = Path("results")) -> None:
    """Add the option `--results`."""
    arguments_parser.add_argument(
        "--results", default=default, type=Path, help="folder with a folder for each experiment"
    )


def add_split(arguments_parser: argparse.ArgumentParser) -> None:
    """Add the option `--split`."""
    arguments_parser.add_argument(
        "--split", default="test", choices=("test", "val"), help="images that the runs were evaluated on"
    )
