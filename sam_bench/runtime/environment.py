"""The rank of this process, and the number of processes, from torchrun's environment variables. Imports no torch."""

import os

from sam_bench.errors import ConfigError


def world_size() -> int:
    """Return the number of processes that torchrun has started, 1 without torchrun.

    Raises:
        ConfigError: `WORLD_SIZE` is not a whole number of at least 0.
    """
    return max(_number("WORLD_SIZE", 1), 1)


def rank() -> int:
    """Return this process's rank, from 0; 0 if it is the only process, even if a scheduler has set `RANK`.

    Raises:
        ConfigError: there are several processes, and `RANK` is missing or not below their number.
    """
    return _rank_in("RANK")


def local_rank() -> int:
    """Return this process's rank among those on its machine, from 0; 0 if it is the only process of the run.

    Raises:
        ConfigError: there are several processes, and `LOCAL_RANK` is missing or not below their number.
    """
    return _rank_in("LOCAL_RANK")


def check_processes() -> None:
    """Check that all variables that several processes need are set.

    Raises:
        ConfigError: there are several processes and a variable is missing, or a variable's value is impossible.
    """
    rank()
    local_rank()
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if world_size() > 1 and missing:
        raise ConfigError(f"WORLD_SIZE={world_size()} needs {' and '.join(missing)}: start the processes with torchrun")


def is_main_process() -> bool:
    """Return True on rank 0, the only process that writes files and prints.

    If the variables make no sense, return True in every process, so that each prints the error.
    """
    try:
        return rank() == 0
    except ConfigError:
        return True


def _rank_in(name: str) -> int:
    """Return the rank in a variable; 0 if there is only one process."""
    count = world_size()
    if count == 1:
        return 0

    number = _number(name, None)
    if number is None or number >= count:
        value = "is not set" if number is None else f"is {number}"
        raise ConfigError(
            f"WORLD_SIZE={count}, but {name} {value}: it must be from 0 to {count - 1}. Start the processes with "
            "torchrun, which sets it"
        )
    return number


def _number(name: str, default: int | None) -> int | None:
    """Return a variable's value as a number; the default if the variable is empty or not set."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise ConfigError(f"{name}={text} must be a whole number of at least 0; torchrun sets it, or leave it out")
    return int(text) if text else default
