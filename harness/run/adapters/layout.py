"""How a model's value lies in memory, declared in the names of the tap's dimensions (einops' notation).

    "batch position (head head_dim)"     heads merged
    "batch head position head_dim"       heads before positions
    "position hidden"                    no batch axis: only batches of 1 have that
    "(batch position) hidden"            the tokens of all rows in one axis
    "batch kv_head group position key -> batch (kv_head group) position key"     heads in two axes
    "batch position head (head_dim + zeros)"     padded with zeros: heads of 64 in 128, say

Where only the left side is given, the right side is the tap's own dimensions.

Of what is padded the tap is what is left without the zeros. They are looked at in every pass: where they are none,
what is cut off is not what was declared, and the check is refused. Of an argument only the callee sees what replay
puts in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from einops import EinopsError, rearrange
from jaxtyping import Array

from harness.errors import PortError
from harness.run.tapping import Around, whole
from harness.run.tracing.program import Adaptation
from harness.taps import Tap, name_of

ZEROS = re.compile(r"\(\s*([a-z_]\w*)\s*\+\s*zeros\s*\)")
NAME = re.compile(r"[a-z_]\w*")
REST = " cut off"
PADDED = "_and_zeros"


def adaptation(layout: str, tap: Tap, sizes: Mapping[str, int]) -> Adaptation:
    """The two ways between a layout and a tap.

    Args:
        layout: of the model's value.
        tap: any tap of the kind.
        sizes: of the dimensions that the architecture fixes: heads, head_dim, and so on.

    Raises:
        PortError: (when used) a value that does not have the layout.
    """
    left, arrow, right = (part.strip() for part in layout.partition("->"))
    if not arrow:
        right = " ".join(dim if dim != "batch" or "batch" in NAME.findall(left) else "1" for dim in tap.dims)
    fixed = {name: size for name, size in sizes.items() if name in {*NAME.findall(left), *NAME.findall(right)}}
    flat = re.search(r"\([^()]*\bbatch\b[^()]*\)", left) is not None

    def way(source: str, target: str, value: Array, batch: int | None) -> Array:
        known = fixed | {"batch": batch} if flat and batch is not None else fixed
        return rearranged(value, source, target, known, tap.kind)

    return Adaptation(
        lambda value, batch=None: way(left, right, value, batch),
        lambda value, batch=None: way(right, left, value, batch),
    )


def rearranged(value: Array, source: str, target: str, sizes: Mapping[str, int], where: str) -> Array:
    """einops' `rearrange`.

    Raises:
        PortError: the value does not have the layout.
    """
    try:
        moved: Array = rearrange(value, f"{source} -> {target}", **sizes)
    except EinopsError as error:
        problem = "a value does not have the layout that the port's table declares"
        expected = f"{source}, with {', '.join(f'{name} {size}' for name, size in sizes.items())}"
        hint = f"correct the layout in the table ({str(error).strip().splitlines()[-1].strip()})"
        raise PortError(problem, where, expected, tuple(value.shape), hint=hint) from None
    return moved


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
    nonzero = np.argwhere(rest != 0)  # NaN as well
    if len(nonzero):
        place = tuple(map(int, nonzero[0]))
        problem = "what the port's table cuts off a value is not zeros"
        where = f"{name.removesuffix(REST)}, at {list(place)} of {list(rest.shape)} as the model has it"
        found = f"{rest[place]!s}, and {len(nonzero) - 1:,} more that are not 0"
        hint = "declare the layout that the value has; numbers that mean something are part of the tap"
        raise PortError(problem, where, "0, where the layout says zeros", found, hint=hint)
