"""The table of a cache: where in it lies what a layer holds. A model with a cache writes it as it is.

    "layer_{i}.k": "layers.{i}.cache_k"          a dict a layer; keys, indices and attributes are joined by dots
    "{i}.0": "layers.{i}.cache_k"                a list of pairs
    "k[{i}]": "layers.{i}.cache_k"               all layers in one array
    "[:, {i}, 0]": "layers.{i}.cache_k"          one array [batch, layer, 2, slot, kv_head, head_dim], and no more
    "{i}.k[..., :head_dim]": ...                 heads that are padded: what is beyond is left as it is
    "{i}.k": To(..., "batch kv_head slot head_dim")     heads before slots (`layout.py`)
    "{i}[..., :kv_rank]": "layers.{i}.cache_latent"     of latent attention: the latent, and behind it in the array
    "{i}[..., kv_rank:]": "layers.{i}.cache_k_pe"       the part of a key that all heads share

What lies in no array by itself, a pool of pages, say, is read and written by the port's own `read_cache` and
`write_cache`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from harness.architecture import Architecture
from harness.errors import PortError, shortened
from harness.families.graph import taps_of
from harness.run.adapters.layout import adaptation
from harness.run.adapters.table import LAYER, To, bad, fixed_sizes
from harness.run.tracing.program import AS_IT_IS, Adaptation
from harness.taps import kind_of

Slots = Float[Array, "batch slot ..."]
Index = tuple[int | slice | EllipsisType, ...]
PLACE = re.compile(r"(?P<path>[^\[\]\s]*)(?:\[(?P<index>[^\[\]]+)\])?")


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tap lies in a cache.

    Attributes:
        path: of the array among the leaves of the cache; empty where the cache is that array.
        index: of the part of the array; None is all of it.
        ways: between the part and the tap.
    """

    tap: str
    path: str
    index: Index | None
    ways: Adaptation


class CacheTable:
    """Reads and writes a cache by its table.

    Raises:
        PortError: a malformed row, a tap that no cache of this architecture has, or one that stands twice.
    """

    def __init__(self, table: Mapping[str, str | To], arch: Architecture) -> None:
        self._places = tuple(place for left, right in table.items() for place in _places(left, right, arch))
        names = [place.tap for place in self._places]
        for name in names:
            if names.count(name) > 1:
                raise _bad("two rows of a cache's table name one tap", name, "one row for every tap")

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of taps that are in the cache."""
        return frozenset(kind_of(place.tap) for place in self._places)

    def read(self, cache: Any) -> dict[str, Slots]:
        """The contents of a cache by tap."""
        leaves = named_leaves(cache)
        parts = ((place, _leaf(place, leaves)) for place in self._places)
        return {p.tap: p.ways.to_tap(leaf if p.index is None else leaf[p.index]) for p, leaf in parts}

    def write(self, cache: Any, values: Mapping[str, Slots]) -> Any:
        """The cache with other contents: all else in it stays."""
        leaves = named_leaves(cache)
        for place in self._places:
            leaf, value = jnp.asarray(_leaf(place, leaves)), place.ways.from_tap(values[place.tap])
            value = value.astype(leaf.dtype)
            leaves[place.path] = value if place.index is None else leaf.at[place.index].set(value)
        return jax.tree.unflatten(jax.tree.structure(cache), leaves.values())


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths: keys, indices and attributes, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(_key(part) for part in path): leaf for path, leaf in leaves}


def _key(part: Any) -> str:
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))


def refuse_other_arguments(port: Any, further: Sequence[str]) -> None:
    """Refuse a port whose `run` does not take what its kind's does, and the cache where it has one.

    Raises:
        PortError: it lacks the cache, say, or has one and the port has none.
    """
    mro = type(port).__mro__
    kind = next(base for base in mro if base.__module__.startswith(f"{__package__}.") and "run" in vars(base))
    parameters = inspect.signature(vars(kind)["run"]).parameters.values()
    given = [*(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)][1:]
    if not given:  # of no kind
        return
    given += further
    signature = inspect.signature(port.run)
    try:
        signature.bind(*given)
    except TypeError:
        problem, expected = "the port's run() does not take what it is given", f"run({', '.join(given)})"
        hint = "a port with init_cache is given the cache as well, which is None for a whole prompt"
        raise PortError(problem, f"{type(port).__name__}.run", expected, f"run{signature}", hint=hint) from None


def _places(left: str, right: str | To, arch: Architecture) -> Iterator[Place]:
    target = right if isinstance(right, To) else To(right)
    match = PLACE.fullmatch(left)
    if match is None:
        raise _bad("a row of a cache's table is malformed", left, "path, path[index] or [index]")
    if (LAYER in left) != (LAYER in target.tap):
        raise _bad("a row of a cache's table has {i} on one side alone", f"{left} -> {target.tap}", "{i} on both")
    known = {tap.name: tap for tap in taps_of(arch) if "slot" in tap.dims}
    sizes = fixed_sizes(arch)
    for layer in range(arch.layers) if LAYER in left else (0,):
        name = target.tap.replace(LAYER, str(layer))
        if name not in known:
            kinds = dict.fromkeys(tap.kind for tap in known.values())
            expected = ", ".join(f"layers.{LAYER}.{kind}" for kind in kinds)
            raise _bad("a row of a cache's table names no tap of a cache", name, expected)
        index = match["index"] and _index(match["index"].replace(LAYER, str(layer)), left, sizes)
        ways = AS_IT_IS if target.layout is None else adaptation(target.layout, known[name], sizes)
        yield Place(name, match["path"].replace(LAYER, str(layer)), index or None, ways)


def _index(text: str, row: str, sizes: Mapping[str, int]) -> Index:
    """`:, 3, 0` or `..., :head_dim` as numpy takes it; dimensions of the architecture stand for their sizes."""

    def number(part: str) -> int:
        if re.fullmatch(r"-?\d+", part):
            return int(part)
        if part not in sizes:
            expected = f"numbers, `:`, `...`, and {', '.join(sizes)}"
            raise _bad("a row of a cache's table has a malformed index", row, expected)
        return sizes[part]

    def axis(part: str) -> int | slice | EllipsisType:
        if part == "...":
            return ...
        if ":" not in part:
            return number(part)
        bounds = [number(bound.strip()) if bound.strip() else None for bound in part.split(":")]
        return slice(*bounds)

    return tuple(axis(part.strip()) for part in text.split(","))


def _leaf(place: Place, leaves: Mapping[str, Any]) -> Any:
    if place.path not in leaves:
        problem = "the cache has no array at a path of the port's table"
        hint = "correct the path in `cache`: keys, indices and attributes, joined by dots"
        found = shortened(", ".join(leaves)) or "no array at all"
        raise PortError(problem, place.path or "the cache itself", "one of its arrays", found, hint=hint)
    return leaves[place.path]


def _bad(problem: str, where: str, expected: str) -> PortError:
    return bad(problem, where, expected, "caches")
