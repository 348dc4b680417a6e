"""Checks of what an optimizer is constructed with: each names the argument, its value and what it must be."""

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn


def check_number(least: float = -math.inf, most: float = math.inf, **values: Any) -> None:
    """Check that every value is a number from `least` to `most`; a scalar tensor is one too.

    Raises:
        TypeError: a value is no number.
        ValueError: a number is out of range, or NaN.
    """
    for name, value in values.items():
        scalar = isinstance(value, Tensor) and value.dim() == 0 and value.dtype.is_floating_point
        if isinstance(value, bool) or not (scalar or isinstance(value, Real)):
            raise _wrong_type(name, value, "a number")
        if not least <= value <= most:
            bounds = f"between {least:g} and {most:g}" if most < math.inf else f"a finite number of at least {least:g}"
            raise ValueError(f"{name}={value} is not {bounds}")
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} is not a finite number")


def check_norm(**values: Any) -> None:
    """Check the greatest norms that something is clipped to; None is no clipping.

    Raises:
        TypeError: a value is neither a number nor None.
        ValueError: a number is not above 0.
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _wrong_type(name, value, "a number or None")
        if not value > 0:
            raise ValueError(f"{name}={value} is not a norm: give a number above 0")


def check_integer(least: int, most: float = math.inf, **values: Any) -> None:
    """Check that every value is an integer from `least` to `most`.

    Raises:
        TypeError: a value is no integer, be it a whole number such as 2.0.
        ValueError: an integer is out of range.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _wrong_type(name, value, "an integer")
        if not least <= value <= most:
            bounds = f"at least {least}" if most == math.inf else f"between {least} and {most:g}"
            raise ValueError(f"{name}={value} is not {bounds}")


def check_flag(**values: Any) -> None:
    """Check that every value is True or False.

    Raises:
        TypeError: a value is neither.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise _wrong_type(name, value, "True or False")


def check_model(model: Any) -> None:
    """Check that `model` is a module or None.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(model, nn.Module | None):
        raise _wrong_type("model", model, "a torch.nn.Module or None")


def _wrong_type(name: str, value: Any, wanted: str) -> TypeError:
    if isinstance(value, nn.Module):
        return TypeError(
            f"{name} is a module ({type(value).__name__}), and must be {wanted}: give the module as model="
        )
    return TypeError(f"{name}={value!r} must be {wanted}")
