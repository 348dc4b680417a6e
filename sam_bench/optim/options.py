"""Settings of an optimizer: type, range and meaning, stated once for all who check or describe them. Needs no torch."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

_KINDS = {float: "a finite number", int: "an integer", bool: "True or False"}


@dataclass(frozen=True)
class Option:
    """A setting: what it is called, what it may be, and what it means."""

    name: str
    kind: type
    """float, int or bool."""
    meaning: str
    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf
    optional: bool = False
    """Whether it may be None."""

    @property
    def bounds(self) -> str:
        """The range in words, such as "at least 0 and below 1"; empty where there is none."""
        words = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return " and ".join(f"{word} {bound}" for word, bound in words.items() if math.isfinite(bound))

    @property
    def rule(self) -> str:
        """What a value must be, in words."""
        none = ", or None (null in YAML)" if self.optional else ""
        return _KINDS[self.kind] + (f" that is {self.bounds}" if self.bounds else "") + none

    def check(self, value: Any) -> None:
        """Check a value; a scalar tensor is a number too.

        Raises:
            TypeError: it is of another type, be it 2.0 for an integer.
            ValueError: it is out of range, or not finite.
        """
        if value is None and self.optional:
            return
        if hasattr(value, "parameters"):
            found = f"{self.name} is a module ({type(value).__name__}), and"
            raise TypeError(f"{found} must be {self.rule}: give the module as model=")
        if not _is_of(self.kind, value):
            raise TypeError(f"{self.name}={value!r} must be {self.rule}")
        if not (self.ge <= value <= self.le and self.gt < value < self.lt):
            raise ValueError(f"{self.name}={value} must be {self.rule} ({self.meaning})")

    def read(self, value: Any) -> Any:
        """Return a checked value as a configuration keeps it: a whole number as a float where it is one.

        Raises:
            TypeError, ValueError: as `check`.
        """
        self.check(value)
        return float(value) if self.kind is float and value is not None else value


def _is_of(kind: type, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral)
    return isinstance(value, Real) or _is_scalar_tensor(value)


def _is_scalar_tensor(value: Any) -> bool:
    """Whether it looks like one: torch is not imported here."""
    return getattr(value, "ndim", None) == 0 and getattr(value.dtype, "is_floating_point", False)
