"""Values that are padded with zeros: `"batch position head (head_dim + zeros)"`, heads of 64 in 128, say.

The tap is what is left without the zeros. They are looked at in every pass: where they are none, what is cut off
is not what was declared, and the check is refused. Of an argument only the callee sees what replay puts in its
place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from harness.errors import PortError
from harness.run.adapters.layout import rearranged
from harness.run.tapping import Around, whole
from harness.taps import name_of

ZEROS = re.compile(r"\(\s*([a-z_]\w*)\s*\+\s*zeros\s*\)")
NAME = re.compile(r"[a-z_]\w*")
REST = " cut off"
PADDED = "_and_zeros"


@dataclass(frozen=True)
class Cut:
    """How zeros lie in a value.

    Attributes:
        layout: of the value, where what is padded has a name of its own.
        sizes: by dimension that the architecture fixes; what is padded without its zeros.
    """

    layout: str
    sizes: tuple[tuple[str, int], ...]

    def taken(self, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The value without its zeros, and the value with zeros alone in the place of that."""
        split = self._moved(value, self.layout, self._flat)
        left = self._moved(split[self._inside], self._flat, self.layout)
        return left, self._moved(split.at[self._inside].set(0), self._flat, self.layout, split.shape)

    def put_back(self, left: jax.Array, rest: jax.Array) -> jax.Array:
        """The inverse of `taken`."""
        around = self._moved(rest, self.layout, self._flat)
        split = self._moved(left, self.layout, self._flat, around[self._inside].shape)
        return self._moved(around.at[self._inside].set(split), self._flat, self.layout)

    @property
    def _names(self) -> list[str]:
        return NAME.findall(self.layout)

    @property
    def _inside(self) -> tuple[slice, ...]:
        """Where in the axes the value without its zeros is."""
        sizes = dict(self.sizes)
        return tuple(slice(sizes[_plain(name)] if _is_padded(name) else None) for name in self._names)

    @property
    def _flat(self) -> str:
        return " ".join(self._names)

    def _moved(
        self, value: jax.Array, source: str, target: str, shape: tuple[int, ...] | None = None
    ) -> jax.Array:
        known = {name: size for name, size in self.sizes if name in self._names}
        known |= dict(zip(self._names, shape, strict=True)) if shape is not None else {}
        return rearranged(value, source, target, known, self.layout.replace(PADDED, " + zeros"))


def without_zeros(layout: str, sizes: Mapping[str, int]) -> tuple[str, Cut | None]:
    """A layout as it is without its zeros, and how they lie; None where there are none.

    Raises:
        PortError: zeros beside a dimension whose size the architecture does not say.
    """
    left, arrow, right = layout.partition("->")
    padded = ZEROS.findall(left)
    if "+" in ZEROS.sub("", layout) or any(name not in sizes for name in padded):
        expected = f"'(head_dim + zeros)', on the left, with one of {', '.join(sizes)}"
        hint = "what is cut off has to be zeros, after a dimension whose size is known"
        raise PortError("a layout of the port's table cuts off what it cannot", layout, expected, hint=hint)
    if not padded:
        return layout, None
    fixed = tuple((name, size) for name, size in sizes.items())
    return ZEROS.sub(r"\1", left) + arrow + right, Cut(ZEROS.sub(rf"\1{PADDED}", left).strip(), fixed)


def _is_padded(name: str) -> bool:
    return name.endswith(PADDED)


def _plain(name: str) -> str:
    return name.removesuffix(PADDED)


class WithoutRest(Around):
    """A session that is not shown what is cut off, which is looked at here."""

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        if name.endswith(REST):
            refuse_other_than_zeros(name, value)
            return value
        return self._session(name, value)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        self._session.judge_by({tap: precision for tap, precision in rounding.items() if not tap.endswith(REST)})

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            if kind.endswith(REST):
                refuse_other_than_zeros(name_of(stage, kind), value)
        self._session.absorb(stage, {kind: value for kind, value in recorded.items() if not kind.endswith(REST)})


def refuse_other_than_zeros(name: str, value: jax.Array | np.ndarray) -> None:
    """What is cut off a tap has to be zeros.

    Raises:
        PortError: it is not.
    """
    rest = whole(value)
    other = np.argwhere(rest != 0)  # NaN as well
    if len(other):
        place = tuple(map(int, other[0]))
        raise PortError(
            "what the port's table cuts off a value is not zeros",
            where=f"{name.removesuffix(REST)}, at {list(place)} of {list(rest.shape)} as the model has it",
            expected="0, where the layout says zeros",
            found=f"{rest[place]!s}, and {len(other) - 1:,} more that are not 0",
            hint="declare the layout that the value has; numbers that mean something are part of the tap",
        )
