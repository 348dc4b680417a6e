"""Methods that other packages or a file of your own add to the benchmark.

`plugin(...)` describes a method. Put `HALF_SAM = plugin(HalfSAM, "half_sam", ...)` into a file `half_sam.py`, and run
it with `python -m sam_bench plugin=half_sam.py optimizer=half_sam`. An installed package needs no `plugin=`: it names
the same object in its `pyproject.toml`, as an entry point of the group `sam_bench.methods`.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sam_bench.errors import ConfigError, first_line
from sam_bench.optim.options import Option as Option
from sam_bench.optim.registry import METHODS, MethodEntry, constructor_parameters

#: The group of entry points in which packages list their methods.
GROUP = "sam_bench.methods"

#: The files that were loaded, each with the digest of its content at that time.
_loaded: dict[Path, str] = {}

#: The source of each method, by the method's name: a file's path, or a package's name.
_sources: dict[str, str] = {}

_installed_are_loaded = False


def plugin(
    cls: type,
    name: str,
    *,
    title: str,
    summary: str,
    paper: str,
    options: tuple[Option, ...] = (),
    passes: str = "",
    averages: bool = False,
    needs_momentum: bool = False,
    capturable: bool = False,
) -> MethodEntry:
    """Describe a method, so that the benchmark offers it as `optimizer=name`.

    Defaults are taken from the class's constructor. If the constructor has a parameter `seed` or `total_steps`, it is
    given the run's seed or number of steps.

    Args:
        cls: a subclass of `SharpnessAware`.
        name: small letters, digits and underscores, beginning with a letter.
        title: the method's name in tables.
        summary: one line that says what the method does.
        paper: the method's source.
        options: settings that only this method has; each is a keyword argument of its constructor, with a default.
        passes: forward-backward passes per step, for tables; by default "2", or "1" for a method without a second pass,
            for which it must be "1".
        averages: True if weight averaging is part of the method.
        needs_momentum: True if the method makes sense only on a base optimizer with momentum.
        capturable: True if a step may be captured in a CUDA graph. A replay repeats what the device did, and nothing
            that Python computed, so no Python number such as `self.steps` may decide what a step does.

    Raises:
        TypeError: `cls` is no subclass of `SharpnessAware`, or its constructor does not take `rho` or an option, or has
            no default for it.
        ValueError: the name has other characters, a default is out of its option's range, an option has the name of a
            setting that all methods have, or `passes` does not fit the class's `two_passes`.
    """
    # Imported only here, because the second imports torch. Whoever has a class to describe has imported that already.
    from sam_bench.config.optimizer import OptimizerConfig
    from sam_bench.optim.sharpness_aware import SharpnessAware

    if not (isinstance(cls, type) and issubclass(cls, SharpnessAware)):
        raise TypeError(f"{cls!r} must be a subclass of sam_bench.SharpnessAware")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"the name {name!r} must be small letters, digits and underscores, and begin with a letter")

    passes = passes or ("2" if cls.two_passes else "1")
    if (passes != "1") != cls.two_passes:
        raise ValueError(
            f'passes={passes!r} must be "1" if, and only if, two_passes is False, and that of {cls.__name__} is '
            f"{cls.two_passes}: leave passes out, or correct one of them"
        )

    perturbs = cls.two_passes or cls.perturbs_first
    defaults = {"rho": _default(cls, "rho")} if perturbs else {}
    taken = inspect.signature(SharpnessAware).parameters.keys() | OptimizerConfig.model_fields.keys()
    taken |= {"seed", "total_steps", "defaults"}
    for option in options:
        if option.name in taken:
            raise ValueError(f"the option {option.name} has the name of a setting that all methods have: rename it")
        defaults[option.name] = _default(cls, option.name)
        option.check(defaults[option.name])

    return MethodEntry(
        name,
        title,
        cls,
        summary,
        paper,
        passes=passes,
        options=options,
        perturbs=perturbs,
        averages=averages,
        needs_momentum=needs_momentum,
        not_capturable="" if capturable else "its description lacks capturable=True",
        defaults=tuple(defaults.items()),
    )


def _default(cls: type, name: str) -> Any:
    """Return the default of a constructor's parameter.

    Raises:
        TypeError: the constructor has no such parameter, or no default for it.
    """
    parameter = constructor_parameters(cls).get(name)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        raise TypeError(f"{cls.__name__}'s constructor must take {name}=, with a default")
    return parameter.default


def load_installed() -> None:
    """Register the methods of all installed packages; a second call does nothing.

    Raises:
        ConfigError: a package's entry point cannot be loaded, is no method, or has the name of another method.
    """
    global _installed_are_loaded
    if _installed_are_loaded:
        return

    for point in metadata.entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}"
        where = f"the entry point {point.name} of {package}"
        try:
            entry = point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where} cannot be loaded: {first_line(error)}; fix or uninstall it") from error
        if not isinstance(entry, MethodEntry):
            raise ConfigError(f"{where} is {entry!r}: it must be what sam_bench.plugins.plugin(...) returns")
        _register(entry, package, point.dist.name)
    _installed_are_loaded = True


def load_file(path: Path) -> None:
    """Execute a Python file, and register the methods that it defines. An unchanged file is not executed again.

    Raises:
        ConfigError: the file cannot be read or executed, defines no method, or defines one with the name of another.
    """
    path = path.absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"plugin={path} cannot be read: {error.strerror}") from error

    # The digest becomes part of the run's identity: another content of the file is another run.
    digest = hashlib.sha256(content).hexdigest()[:12]
    if _loaded.get(path) == digest:
        return

    name = f"sam_bench_plugin_{re.sub(r'[^a-zA-Z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ConfigError(f"plugin={path} is no Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the file may import from files beside it
    try:
        # Exactly the content that the digest is of, and no cached bytecode.
        exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"plugin={path} cannot be loaded: {first_line(error)}") from error

    entries = [value for value in vars(module).values() if isinstance(value, MethodEntry)]
    if not entries:
        raise ConfigError(f"plugin={path} has no method: add NAME = sam_bench.plugins.plugin(...) to the file")
    for entry in entries:
        _register(entry, f"{path.name} {digest}", str(path))
    _loaded[path] = digest


def is_loaded(path: Path) -> bool:
    """Return True if the methods of a file are registered in this process."""
    return path.absolute() in _loaded


def _register(entry: MethodEntry, package: str, source: str) -> None:
    """Register a method; one from the same source is replaced.

    Args:
        package: the package with its version, or the file with its digest, as a run's identity has it.
        source: the file's path, or the package's name.

    Raises:
        ConfigError: there is a method of this name from another source.
    """
    known = METHODS.get(entry.name)
    if known is not None and not (known.package and _sources.get(entry.name) == source):
        raise ConfigError(
            f"{package} has a method {entry.name}, and so has {known.package or 'sam_bench itself'}: rename one of them"
        )
    METHODS[entry.name] = entry.brought_by(package)
    _sources[entry.name] = source
