"""Frozen dataclasses that are built from plain mappings and check themselves."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sam_bench.errors import ConfigError
from sam_bench.lookup import no_such, suggestion

S = TypeVar("S", bound="Settings")


def setting(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] | None = None,
    identity: bool = True,
    usual: Any = None,
) -> Any:
    """A field of a `Settings` class, with the rule for its value; None is always allowed where the type allows it.

    Args:
        ge, gt, le, lt: bounds, inclusive and exclusive; for a tuple, of each of its numbers.
        choices: the only values.
        identity: whether the value can change a run's result, and so belongs to the run's identity.
        usual: a value that identities leave out: runs from before there was the setting keep theirs.
    """
    bounds = {"at least": ge, "above": gt, "at most": le, "below": lt}
    return field(metadata={"bounds": bounds, "choices": choices, "identity": identity, "usual": usual})


_HOLDS = {
    "at least": lambda value, bound: value >= bound,
    "above": lambda value, bound: value > bound,
    "at most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


@dataclass(frozen=True)
class Settings:
    """Base of every group of settings: knows its place in the configuration, checks each field's rule."""

    _path: typing.ClassVar[str] = ""

    @classmethod
    def key(cls, name: str) -> str:
        """The name as the command line has it."""
        return f"{cls._path}.{name}" if cls._path else name

    @classmethod
    def build(cls: type[S], values: Mapping[str, Any]) -> S:
        """From plain values, as a YAML file or a checkpoint holds them.

        Raises:
            ConfigError: a key is unknown or missing, or a value is of the wrong type or breaks its rule.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls._path}={values!r} is not a group of settings; it has {', '.join(cls.names())}")
        for name in values:
            if name not in cls.names():
                raise ConfigError(cls.unknown(name))
        return cls(**cls._read(values))

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the constructor, each of its field's type."""
        hints = typing.get_type_hints(cls)
        own = [f for f in fields(cls) if f.name in cls.names()]
        return {f.name: _convert(cls.key(f.name), hints[f.name], _value(cls, f, values)) for f in own}

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the settings in this group."""
        return [f.name for f in fields(cls)]

    @classmethod
    def unknown(cls, name: str) -> str:
        """What to say of a name that is none of the settings here: where it is a setting, or what else there is."""
        elsewhere = [key for key in cls.all_keys() if key.endswith(f".{name}")]
        hint = f" — did you mean {elsewhere[0]}?" if elsewhere else suggestion(name, cls.names())
        return f"{cls.key(name)} is no setting{hint} {cls._path or 'The configuration'} has: {', '.join(cls.names())}"

    @classmethod
    def all_keys(cls) -> list[str]:
        """All settings from here on, as the command line has them."""
        hints = typing.get_type_hints(cls)
        found = []
        for name in cls.names():
            group = group_of(hints.get(name))
            found += group.all_keys() if group is not None else [cls.key(name)]
        return found

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            for number in value if isinstance(value, tuple) else (value,):
                _check(self.key(f.name), number, f.metadata)

    def identity(self) -> dict[str, Any]:
        """The values that can change a run's result, nested as the settings are; without what is None or usual."""
        found = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Settings):
                if inner := value.identity():
                    found[f.name] = inner
            elif value is not None and value != f.metadata.get("usual") and f.metadata.get("identity", True):
                found[f.name] = list(value) if isinstance(value, tuple) else value
        return found


def group_of(hint: Any) -> type[Settings] | None:
    """Return the class of a field that is a group of settings, be it an optional one; None for any other field."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((each for each in options if isinstance(each, type) and issubclass(each, Settings)), None)


def _value(cls: type[Settings], f: dataclasses.Field, values: Mapping[str, Any]) -> Any:
    if f.name in values:
        return values[f.name]
    if type(None) in typing.get_args(typing.get_type_hints(cls)[f.name]):
        return None
    raise ConfigError(f"{cls.key(f.name)} has no value; give it one, {cls.key(f.name)}=…")


def _convert(key: str, hint: Any, value: Any) -> Any:
    """The value as the type that the field has, or an error; only whole numbers become floats."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    if (group := group_of(wanted)) is not None:
        return group.build(value)
    if typing.get_origin(wanted) is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(key, typing.get_args(wanted)[0], item) for item in value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        name = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(
            wanted, f"a list, such as [{value}]"
        )
        raise ConfigError(f"{key}={value!r} is not {name}")
    return value


def _check(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value} is not a finite number")
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise ConfigError(no_such(key, value, choices))
    for rule, bound in metadata.get("bounds", {}).items():
        if bound is not None and isinstance(value, (int, float)) and not _HOLDS[rule](value, bound):
            raise ConfigError(f"{key}={value} is out of range: it must be {rule} {bound}")
