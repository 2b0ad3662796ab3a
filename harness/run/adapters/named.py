"""Named arrays of Haliax: each stands for its array, whose axes lie as they lie in it. Haliax is not imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def is_named(value: object) -> bool:
    haliax = sys.modules.get("haliax")  # where it is not imported there is nothing of it
    return haliax is not None and isinstance(value, haliax.NamedArray)


def of_array(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` of an array; of a named array one with the same axes, with `change` of its array."""
    return type(value)(change(value.array), value.axes) if is_named(value) else change(value)
