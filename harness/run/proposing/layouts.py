"""Which layouts of a tap the shape of a value allows, in the names that a table has for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from itertools import permutations
from math import prod

AXIS = re.compile(r"\([^)]*\)|\S+")
MOST_UNITS = 3
MERGED = {("head", "head_dim"), ("kv_head", "head_dim"), ("kv_head", "group"), ("group", "head_dim")}


@functools.lru_cache(maxsize=4096)
def layouts(
    dims: tuple[str, ...], sizes: tuple[tuple[str, int], ...], shape: tuple[int, ...]
) -> tuple[str | None, ...]:
    """The layouts that a value of this shape can have, the plainest first; None is the tap's own.

    Args:
        dims: of the tap.
        sizes: of all dimensions.
    """
    named = dict(sizes)
    exact = [layout for layout, own in _all(dims, named) if own == shape]
    return tuple(dict.fromkeys([*exact, *_with_units(dims, named, shape), *_with_zeros(dims, named, shape)]))


def _with_units(dims: tuple[str, ...], sizes: Mapping[str, int], shape: tuple[int, ...]) -> Iterator[str]:
    """Layouts in which axes of size 1 lie somewhere: the batch is the first of them."""
    others = shape[1:].count(1)
    if sizes["batch"] != 1 or not 0 < others <= MOST_UNITS:
        return
    rest = tuple(size for size in shape if size != 1)
    for layout, own in _all(dims, sizes):
        left, arrow, right = (layout or " ".join(dims)).partition(" -> ")
        axes = AXIS.findall(left)
        if own != rest or "batch" in axes:
            continue
        waiting, units = iter(axes), iter(["batch"])
        written = [next(units, "1") if size == 1 else next(waiting) for size in shape]
        yield " ".join(written) + (f" -> {right.replace('1', 'batch', 1)}" if arrow else "")


def _with_zeros(dims: tuple[str, ...], sizes: Mapping[str, int], shape: tuple[int, ...]) -> Iterator[str]:
    """Layouts with heads padded with zeros, where no other dimension is: kernels want multiples of 128."""
    padded = shape[-1] if shape else 0
    if "head_dim" not in dims or padded <= sizes["head_dim"]:
        return
    for layout, own in _all(dims, {**sizes, "head_dim": padded}):
        left, arrow, right = (layout or " ".join(dims)).partition(" -> ")
        if own == shape and AXIS.findall(left)[-1] == "head_dim":
            yield f"{left[: -len('head_dim')]}(head_dim + zeros){arrow}{right}"


def _all(dims: tuple[str, ...], sizes: Mapping[str, int]) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Every layout with its shape."""
    yield None, tuple(sizes[dim] for dim in dims)
    # Heads may lie in two axes: key-value heads, and the queries of each.
    split = [dims]
    if "head" in dims and sizes["head"] % sizes["kv_head"] == 0:
        at = dims.index("head")
        split.append((*dims[:at], "kv_head", "group", *dims[at + 1 :]))
    sizes = {**sizes, "group": sizes["head"] // sizes["kv_head"]}
    for names in split:
        target = " ".join(dims).replace("head", "(kv_head group)", 1) if "group" in names else None
        for leading in _leading(names, sizes):
            for order in permutations(name for name in names[1:] if name not in leading):
                for groups in _merged(order):
                    written = " ".join((*leading, *(_axis(group) for group in groups)))
                    if written == " ".join(dims):
                        continue
                    own = tuple(sizes.get(name, 1) for name in leading) + tuple(
                        prod(sizes[name] for name in group) for group in groups
                    )
                    right = target if leading or target is None else target.replace("batch", "1", 1)
                    yield (written if right is None else f"{written} -> {right}"), own


def _leading(names: tuple[str, ...], sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """What comes first: batch; nothing, in a batch of 1; what a function of batches is mapped over."""
    yield ("batch",)
    if sizes["batch"] == 1:
        yield ()
    if "group" in names:
        yield "group", "batch"
    elif "head" in names:
        yield "1", "batch"


def _merged(order: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The axes as they are, and with heads merged with what lies in them."""
    yield tuple((name,) for name in order)
    for at in range(len(order) - 1):
        if order[at : at + 2] in MERGED:
            yield (*((name,) for name in order[:at]), order[at : at + 2], *((name,) for name in order[at + 2 :]))
        if order[at : at + 3] == ("kv_head", "group", "head_dim"):
            yield (*((name,) for name in order[:at]), order[at : at + 3], *((name,) for name in order[at + 3 :]))


def _axis(group: tuple[str, ...]) -> str:
    return group[0] if len(group) == 1 else f"({' '.join(group)})"
