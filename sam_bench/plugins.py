"""Methods that other packages, or a file of yours, bring: described here, found and loaded by the command line.

A file `half_sam.py` is a method of the benchmark, `python -m sam_bench plugin=half_sam.py optimizer=half_sam`, with
`HALF_SAM = plugin(HalfSAM, "half_sam", ...)` in it. A package needs no `plugin=`: it names the same object as an entry
point of the group `sam_bench.methods` in its `pyproject.toml`.
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
from sam_bench.optim.registry import METHODS, MethodEntry

GROUP = "sam_bench.methods"
"""The group of entry points."""

_loaded: dict[Path, str] = {}
"""The files that were loaded, and what they were then."""

_sources: dict[str, str] = {}
"""Where each method was found: a file, or a package's name."""

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
    """Describe a method, so that the benchmark can offer it as `optimizer=name`.

    Defaults are those of the class's constructor, and so is whether it takes a `seed` for draws of its own, or the
    run's `total_steps`.

    Args:
        cls: a subclass of `SharpnessAware`.
        name: small letters, digits and underscores.
        title: as tables print it.
        summary: what it does, in a line.
        paper: where it comes from.
        options: what it has beside what all methods have; keyword arguments of its constructor, with a default.
        passes: forward-backward passes a step, as tables print them; "2", or "1" of a method without a second pass.
        averages: whether weight averaging is part of it.
        needs_momentum: whether it is of use only on a base optimizer with momentum.
        capturable: whether a step may be captured in a CUDA graph, which repeats what the device did, and nothing that
            Python computes: no number such as `self.steps` decides what a step does.

    Raises:
        TypeError: it is no such class, or its constructor does not take what it must.
        ValueError: the name is none, a default is out of its range, or an option has a name that is taken.
    """
    from sam_bench.config.schema import OptimizerConfig
    from sam_bench.optim.engine import SharpnessAware  # imports torch, as whoever has a class to describe has done

    if not (isinstance(cls, type) and issubclass(cls, SharpnessAware)):
        raise TypeError(f"{cls!r} must be a subclass of sam_bench.SharpnessAware")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"the name {name!r} must be of small letters, digits and underscores")
    parameters = inspect.signature(cls).parameters
    perturbs = cls.two_passes or cls.perturbs_first
    defaults = {"rho": _default(cls, "rho")} if perturbs else {}
    taken = inspect.signature(SharpnessAware).parameters.keys() | OptimizerConfig.model_fields.keys()
    taken |= {"seed", "total_steps", "defaults"}
    for option in options:
        if option.name in taken:
            raise ValueError(f"the option {option.name} has the name of something that all methods have")
        defaults[option.name] = _default(cls, option.name)
        option.check(defaults[option.name])
    return MethodEntry(
        name,
        title,
        cls,
        summary,
        paper,
        passes=passes or ("2" if cls.two_passes else "1"),
        options=options,
        perturbs=perturbs,
        has_second_pass=cls.two_passes,
        perturbs_first=cls.perturbs_first,
        averages=averages,
        selects_examples=cls.selects_examples,
        draws="seed" in parameters,
        gradient_decides=cls.gradient_decides,
        repeats_batch=cls.repeats_batch,
        needs_total_steps="total_steps" in parameters,
        needs_momentum=needs_momentum,
        not_capturable=_why_not_captured(cls) or ("" if capturable else "its description does not say that it can be"),
        defaults=tuple(defaults.items()),
    )


def _why_not_captured(cls: type) -> str:
    if cls.repeats_batch:
        return "a step repeats the batch of the step before"
    return "the host waits for its decision" if cls.gradient_decides else ""


def _default(cls: type, name: str) -> Any:
    found = inspect.signature(cls).parameters.get(name)
    if found is None or found.default is inspect.Parameter.empty:
        raise TypeError(f"{cls.__name__}'s constructor must take {name}= and have a default for it")
    return found.default


def load_installed() -> None:
    """Take up the methods of all installed packages.

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
            raise ConfigError(f"{where} cannot be loaded: {first_line(error)}; mend or uninstall it") from error
        if not isinstance(entry, MethodEntry):
            raise ConfigError(f"{where} is {entry!r}: it must be what sam_bench.plugins.plugin(...) returns")
        _take_up(entry, package, point.dist.name)
    _installed_are_loaded = True


def load_file(path: Path) -> None:
    """Take up the methods of a Python file, which is executed.

    Raises:
        ConfigError: there is no such file, it cannot be executed, it has no method, or one with the name of another.
    """
    path = path.absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"plugin={path} cannot be read: {error.strerror}") from error
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
        sys.path.append(str(path.parent))  # for what it imports from beside it
    try:
        exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102 -- what the digest is of, never a cache
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"plugin={path} cannot be loaded: {first_line(error)}") from error
    entries = [value for value in vars(module).values() if isinstance(value, MethodEntry)]
    if not entries:
        raise ConfigError(f"plugin={path} has no method: there must be a NAME = sam_bench.plugins.plugin(...) in it")
    for entry in entries:
        _take_up(entry, f"{path.name} {digest}", str(path))
    _loaded[path] = digest


def is_loaded(path: Path) -> bool:
    """Whether the methods of a file were taken up in this process."""
    return path.absolute() in _loaded


def _take_up(entry: MethodEntry, package: str, source: str) -> None:
    known = METHODS.get(entry.name)
    if known is not None and not (known.package and _sources.get(entry.name) == source):
        raise ConfigError(
            f"{package} has a method {entry.name}, and so has {known.package or 'sam_bench itself'}: rename one of them"
        )
    METHODS[entry.name] = entry.brought_by(package)
    _sources[entry.name] = source
