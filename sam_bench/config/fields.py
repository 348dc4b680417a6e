"""Groups of settings: frozen pydantic models whose errors are one-line messages for the user."""

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from sam_bench.errors import ConfigError
from sam_bench.lookup import no_such, suggestion

T = TypeVar("T")

#: A list in YAML, a tuple here.
Items = Annotated[tuple[T, ...], Strict(False)]

#: What a value of the wrong type should have been, by pydantic's name for the error.
_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "literal_error": "a string",
    "tuple_type": "a list, such as [{}]",
}

#: The bound that a value is beyond, by pydantic's name for the error.
_RANGES = {
    "greater_than_equal": "at least {ge:.10g}",
    "greater_than": "above {gt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "less_than": "below {lt:.10g}",
}


class Settings(BaseModel):
    """Base of every group of settings.

    Fields with `exclude` cannot change a run's result; all others are part of its identity.
    Rules between fields are checked in `model_post_init`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build a whole configuration from plain values, such as those of a YAML file or a checkpoint.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type or breaks a rule.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            unknown = [each for each in errors if each["type"] == "extra_forbidden"]
            raise ConfigError(_explain(cls, (unknown or errors)[0])) from None

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the settings and groups in this group."""
        return list(cls.model_fields)

    @classmethod
    def group(cls, name: str) -> type["Settings"] | None:
        """Return the group of that name within this group; None if there is none."""
        field = cls.model_fields.get(name)
        hint = field.annotation if field else None
        types = typing.get_args(hint) or (hint,)
        return next((each for each in types if isinstance(each, type) and issubclass(each, Settings)), None)

    @classmethod
    def all_keys(cls, path: str = "") -> list[str]:
        """Return the command-line keys of all settings in this group and its subgroups.

        Args:
            path: the key of this group; empty for the whole configuration.
        """
        keys = []
        for name in cls.names():
            key = f"{path}.{name}".lstrip(".")
            keys += group.all_keys(key) if (group := cls.group(name)) else [key]
        return keys

    @classmethod
    def unknown(cls, name: str, path: str) -> str:
        """Return the error message for a name that is no setting of this group, with a suggestion.

        Args:
            path: the key of this group; empty for the whole configuration.
        """
        in_subgroups = [key for key in cls.all_keys(path) if key.endswith(f".{name}")]
        hint = f" — did you mean {in_subgroups[0]}?" if in_subgroups else suggestion(name, cls.names())
        key = f"{path}.{name}".lstrip(".")
        return f"Unknown setting {key}{hint} {path or 'The configuration'} has: {', '.join(cls.names())}"

    def identity(self) -> dict[str, Any]:
        """Return the values that can change a run's result, as nested dicts of JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


def _explain(root: type[Settings], error: Mapping[str, Any]) -> str:
    """Return a one-line message for an error that pydantic found in a configuration."""
    *groups, name = (str(part) for part in error["loc"] if isinstance(part, str))
    settings = root
    for group in groups:
        settings = settings.group(group)
    key = ".".join((*groups, name))
    kind = error["type"]
    value = error["input"]

    if kind == "extra_forbidden":
        return settings.unknown(name, ".".join(groups))
    if kind == "missing":
        return f"{key} has no value; set {key}=…"

    if kind == "literal_error" and isinstance(value, str):
        return no_such(key, value, re.findall("'(.*?)'", error["ctx"]["expected"]))
    if kind in _RANGES:
        return f"{key}={value} is out of range: it must be {_RANGES[kind].format(**error['ctx'])}"
    if kind in _TYPES:
        return f"{key}={value!r} is not {_TYPES[kind].format(value)}"

    if group := settings.group(name):
        return f"{key}={value!r} must be a group of settings, with {', '.join(group.names())}"
    return f"{key}={value!r}: {error['msg']}"


def path_of(key: str, text: str) -> Path:
    """Return the path that a setting gives, with the home folder expanded.

    Args:
        key: the setting, for the error message.

    Raises:
        ConfigError: the path begins with `~user`, and there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}={text} begins with the home folder of a user who does not exist") from error


def check_applicable(
    group: str,
    optional: Mapping[str, Any],
    own: tuple[str, ...],
    owner: str,
    may_be_null: tuple[str, ...] = (),
) -> None:
    """Check that every optional setting has a value if it belongs to the chosen option, and none otherwise.

    Args:
        group: the group of settings, such as "optimizer".
        optional: the values of the optional settings, by name.
        own: the names of those that belong to the chosen option.
        owner: the chosen option, such as a method.
        may_be_null: the settings that need no value.

    Raises:
        ConfigError: a setting of another option has a value, or one of this option has none.
    """
    for name, value in sorted(optional.items()):
        if value is not None and name not in own:
            raise ConfigError(
                f"{group}.{name}={value} has no meaning for {owner}, "
                f"which has {', '.join(own) if own else 'no such settings'}; remove it, or choose another {group}"
            )
        if value is None and name in own and name not in may_be_null:
            raise ConfigError(f"{group}.{name} has no value, and {owner} needs one; set {group}.{name}=…")
