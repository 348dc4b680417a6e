"""The loggers by name: `logger=NAME` is the module `NAME.py` beside this one, which has a `Settings` and a `Logger`.

Every such module is imported with the configuration: what is slow to import belongs in its logger's `start`.
"""

import importlib
import pkgutil
from dataclasses import make_dataclass
from types import ModuleType

import sam_bench.loggers
from sam_bench.config.fields import Settings, setting
from sam_bench.loggers.base import Logger

_OTHERS = ("base", "console", "registry")

LOGGERS: dict[str, ModuleType] = {
    name: importlib.import_module(f"sam_bench.loggers.{name}")
    for _, name, _ in pkgutil.iter_modules(sam_bench.loggers.__path__)
    if name not in _OTHERS
}

LoggerConfig = make_dataclass(
    "LoggerConfig",
    [(name, module.Settings | None, setting(identity=False)) for name, module in LOGGERS.items()],
    bases=(Settings,),
    namespace={
        "_path": "logger",
        "__module__": __name__,
        "__doc__": "The loggers beside the console, with their settings (`logger=`).",
    },
    frozen=True,
)


def make_loggers(config: LoggerConfig) -> list[Logger]:
    """The loggers that a configuration asks for."""
    chosen = {name: getattr(config, name) for name in LOGGERS}
    return [LOGGERS[name].Logger(settings) for name, settings in chosen.items() if settings is not None]
