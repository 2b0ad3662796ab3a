"""How a model's value lies in memory, declared in the names of the tap's dimensions (einops' notation).

    "batch position (head head_dim)"     heads merged
    "batch head position head_dim"       heads before positions
    "position hidden"                    no batch axis: only batches of 1 have that
    "(batch position) hidden"            the tokens of all rows in one axis
    "batch kv_head group position key -> batch (kv_head group) position key"     heads in two axes

Where only the left side is given, the right side is the tap's own dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from einops import EinopsError, rearrange
from jaxtyping import Array

from harness.errors import PortError
from harness.run.tracing.program import Adaptation
from harness.taps import Tap


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
        right = " ".join(dim if dim != "batch" or "batch" in _names(left) else "1" for dim in tap.dims)
    fixed = {name: size for name, size in sizes.items() if name in _names(left) | _names(right)}
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


def _names(side: str) -> set[str]:
    return set(re.findall(r"[a-z_]\w*", side))
