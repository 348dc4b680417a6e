"""The place of this process among those that torchrun starts, from its environment variables. Imports no torch."""

import os

from sam_bench.errors import ConfigError


def world_size() -> int:
    """Return the number of processes that torchrun has started, 1 without torchrun.

    Raises:
        ConfigError: `WORLD_SIZE` is no number above 0.
    """
    return max(_number("WORLD_SIZE", 1), 1)


def rank() -> int:
    """Return the number of this process, from 0; 0 if it is the only one, whatever else a scheduler has set.

    Raises:
        ConfigError: there are several processes, and `RANK` is not the number of one of them.
    """
    return _place("RANK")


def local_rank() -> int:
    """Return the number of this process among those on its machine, from 0; 0 if it is the only one.

    Raises:
        ConfigError: there are several processes, and `LOCAL_RANK` is not the number of one of them.
    """
    return _place("LOCAL_RANK")


def check_processes() -> None:
    """Check that what is known of several processes is complete.

    Raises:
        ConfigError: a variable is missing, or its value is impossible.
    """
    rank()
    local_rank()
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if world_size() > 1 and missing:
        raise ConfigError(f"WORLD_SIZE={world_size()} needs {' and '.join(missing)}: start the processes with torchrun")


def is_main_process() -> bool:
    """Return True on rank 0, the only process that writes files and prints.

    True also where the variables make no sense, so that every process says so.
    """
    try:
        return rank() == 0
    except ConfigError:
        return True


def _place(name: str) -> int:
    count = world_size()
    if count == 1:
        return 0
    place = _number(name, None)
    if place is None or place >= count:
        value = "is not set" if place is None else f"is {place}"
        raise ConfigError(
            f"WORLD_SIZE={count}, but {name} {value}: it must be from 0 to {count - 1}. Start the processes with "
            "torchrun, which sets it"
        )
    return place


def _number(name: str, default: int | None) -> int | None:
    """Return a variable's value as a number; the default if it is not set, or empty."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise ConfigError(f"{name}={text} must be a whole number of at least 0; torchrun sets it, or leave it out")
    return int(text) if text else default
