"""The loggers by name: `logger=NAME` is the module `NAME.py` in this folder, with a class `Settings` and a `Logger`.

Every such module is imported together with the configuration. So slow imports belong in the logger's `start`.
"""

import importlib
import pkgutil
from types import ModuleType

from pydantic import create_model

import sam_bench.loggers
from sam_bench.config.fields import Settings
from sam_bench.loggers.base import Logger

#: Modules of this folder that are not for `logger=`.
_NOT_LOGGERS = ("base", "console", "registry")

LOGGERS: dict[str, ModuleType] = {
    name: importlib.import_module(f"sam_bench.loggers.{name}")
    for _, name, _ in pkgutil.iter_modules(sam_bench.loggers.__path__)
    if name not in _NOT_LOGGERS
}

LoggerConfig = create_model(
    "LoggerConfig",
    __base__=Settings,
    __module__=__name__,
    __doc__="The loggers beside the console, with their settings (`logger=`).",
    **{name: (module.Settings | None, None) for name, module in LOGGERS.items()},
)


def make_loggers(config: LoggerConfig) -> list[Logger]:
    """Return the loggers that a configuration asks for."""
    chosen = {name: getattr(config, name) for name in LOGGERS}
    return [LOGGERS[name].Logger(settings) for name, settings in chosen.items() if settings is not None]
