"""Lookup in registries, with an error message that suggests a close name."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from sam_bench.errors import ConfigError


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: "did you mean X?" if a known name is close, else a full stop.

    The comparison ignores case.
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return f" — did you mean {by_lower[close[0]]}?" if close else "."


def no_such(key: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a setting `key` whose value `name` is not among the known names."""
    return f"{key}={name} does not exist{suggestion(name, known)} Choose one of: {', '.join(known)}"


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return `table[name]`.

    Args:
        kind: what the name is the name of, such as "optimizer", for the message.

    Raises:
        ConfigError: the name is not in the table; the message lists the names that are.
    """
    if name not in table:
        raise ConfigError(no_such(kind, name, table))
    return table[name]


def load(location: str) -> Any:
    """Import the module in a registry entry's location "module:name", and return the object of that name."""
    module, name = location.split(":")
    return getattr(importlib.import_module(module), name)
