"""The commands: `python -m sam_bench COMMAND`, each the function `main` of the module with its name.

A module imports in `main` what takes long to import, such as torch and pandas, so that `--help` answers at once.
"""

import importlib
from collections.abc import Sequence

from sam_bench.errors import ConfigError
from sam_bench.lookup import suggestion

#: The commands, in the order in which a comparison needs them.
COMMANDS = ("data", "tune", "study", "reproduce", "table", "analyse", "report", "weights", "sync")


def is_command(word: str) -> bool:
    """Return True if a command line's first word is meant as a command, and not for Hydra, as `seed=1` and `-m` are."""
    return word[:1].isalpha() and "=" not in word


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run a command.

    Raises:
        ConfigError: there is no command of this name.
    """
    if name not in COMMANDS:
        raise ConfigError(
            f"Unknown command {name}{suggestion(name, COMMANDS)} The commands are {', '.join(COMMANDS)}. A setting is "
            "key=value, with no spaces around ="
        )
    importlib.import_module(f"{__name__}.{name}").main(list(arguments))
