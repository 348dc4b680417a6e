"""Groups of settings: frozen pydantic models, whose errors are one line for whoever typed the value."""

import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from sam_bench.errors import ConfigError
from sam_bench.lookup import no_such, suggestion

T = TypeVar("T")

#: A list in YAML, a tuple here.
Items = Annotated[tuple[T, ...], Strict(False)]

#: What a value of another type is not, by pydantic's name for the error.
_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "literal_error": "a text",
    "tuple_type": "a list, such as [{}]",
}

_RANGES = {
    "greater_than_equal": "at least {ge:.10g}",
    "greater_than": "above {gt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "less_than": "below {lt:.10g}",
}


class Settings(BaseModel):
    """Base of every group of settings.

    The fields that are dumped can change a run's result; those that cannot have `exclude`.
    What must hold between fields is checked in `model_post_init`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build a whole configuration from plain values, as a YAML file or a checkpoint holds them.

        Raises:
            ConfigError: a key is unknown or missing, or a value is of the wrong type or breaks a rule.
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
        """Return the group of that name in this one; None where there is none."""
        field = cls.model_fields.get(name)
        hint = field.annotation if field else None
        options = typing.get_args(hint) or (hint,)
        return next((each for each in options if isinstance(each, type) and issubclass(each, Settings)), None)

    @classmethod
    def all_keys(cls, path: str = "") -> list[str]:
        """Return all settings from here on, as the command line has them; `path` is this group's own."""
        found = []
        for name in cls.names():
            key = f"{path}.{name}".lstrip(".")
            found += group.all_keys(key) if (group := cls.group(name)) else [key]
        return found

    @classmethod
    def unknown(cls, name: str, path: str) -> str:
        """Return what to say of a name that is none of the settings here: where there is one, or what there is."""
        elsewhere = [key for key in cls.all_keys(path) if key.endswith(f".{name}")]
        hint = f" — did you mean {elsewhere[0]}?" if elsewhere else suggestion(name, cls.names())
        key = f"{path}.{name}".lstrip(".")
        return f"{key} is no setting{hint} {path or 'The configuration'} has: {', '.join(cls.names())}"

    def identity(self) -> dict[str, Any]:
        """Return the values that can change a run's result, nested as the settings are, as JSON has them."""
        return self.model_dump(mode="json", exclude_none=True)


def _explain(root: type[Settings], error: Mapping[str, Any]) -> str:
    """Return what to say of an error that pydantic found in a configuration."""
    *groups, name = (str(part) for part in error["loc"] if isinstance(part, str))
    place = root
    for group in groups:
        place = place.group(group)
    key = ".".join((*groups, name))
    kind = error["type"]
    value = error["input"]
    if kind == "extra_forbidden":
        return place.unknown(name, ".".join(groups))
    if kind == "missing":
        return f"{key} has no value; give it one, {key}=…"
    if kind == "literal_error" and isinstance(value, str):
        return no_such(key, value, re.findall("'(.*?)'", error["ctx"]["expected"]))
    if kind in _RANGES:
        return f"{key}={value} is out of range: it must be {_RANGES[kind].format(**error['ctx'])}"
    if kind in _TYPES:
        return f"{key}={value!r} is not {_TYPES[kind].format(value)}"
    if group := place.group(name):
        return f"{key}={value!r} is not a group of settings; it has {', '.join(group.names())}"
    return f"{key}={value!r}: {error['msg']}"
