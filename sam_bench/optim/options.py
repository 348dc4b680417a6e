"""Settings of an optimizer: type, range and meaning in one place, for checks and descriptions.

This module does not import torch.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

_KINDS = {float: "a finite number", int: "an integer", bool: "True or False"}


@dataclass(frozen=True)
class Option:
    """A setting, with its name, its type and range, and its meaning."""

    name: str
    kind: type  #: float, int or bool.
    meaning: str
    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf
    optional: bool = False  #: True if the value may be None.

    @property
    def bounds(self) -> str:
        """Return the range in words, such as "at least 0 and below 1"; an empty string if there is none."""
        bounds = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound))

    @property
    def rule(self) -> str:
        """Return the rule for a value in words: its type and range."""
        or_none = ", or None (null in YAML)" if self.optional else ""
        return _KINDS[self.kind] + (f" that is {self.bounds}" if self.bounds else "") + or_none

    def check(self, value: Any) -> None:
        """Check a value; a scalar tensor counts as a number.

        Raises:
            TypeError: the value has another type; for an integer, 2.0 has.
            ValueError: the value is out of range, or not finite.
        """
        if value is None and self.optional:
            return

        # An easy mistake: the model was passed by position, where another argument is expected.
        if hasattr(value, "parameters"):
            given = f"{self.name} is a module ({type(value).__name__}), and"
            raise TypeError(f"{given} must be {self.rule}: give the module as model=")
        if not _is_of_kind(self.kind, value):
            raise TypeError(f"{self.name}={value!r} must be {self.rule}")
        if not (self.ge <= value <= self.le and self.gt < value < self.lt):
            raise ValueError(f"{self.name}={value} must be {self.rule} ({self.meaning})")

    def read(self, value: Any) -> Any:
        """Return a checked value as a configuration stores it: a float for a float setting, even if given as an int.

        Raises:
            TypeError: the value has another type.
            ValueError: the value is out of range, or not finite.
        """
        self.check(value)
        return float(value) if self.kind is float and value is not None else value


def _is_of_kind(kind: type, value: Any) -> bool:
    """Return True if a value has the type of a setting; a boolean is no number."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral)
    return isinstance(value, Real) or _is_scalar_tensor(value)


def _is_scalar_tensor(value: Any) -> bool:
    """Return True if a value looks like a scalar floating-point tensor; torch is not imported for that."""
    return getattr(value, "ndim", None) == 0 and getattr(value.dtype, "is_floating_point", False)
