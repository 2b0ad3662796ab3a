"""Where the arrays of a golden lie, and of which form they are: all of it follows from the manifest.

What a case recorded in every layer lies in one array, a **stack**: `taps/q_rope` has the dimensions of
`layers.{i}.q_rope` with `layer` before them. A layer's slab is written, hashed and read alone. Two layers whose
slabs have different shapes do not lie in one stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.golden import LAYER, NOISE_KINDS, CaseEntry, Form, Manifest
from harness.taps import FULL_KINDS, TOKENS, Tap

INPUTS = {"input_ids": "int32", "positions": "int32", "mask": "bool"}
CASE_DIMS = ("batch", "position", "key", "slot")  # their size is a matter of the case
KEPT, RANK, TAP, STATISTIC = "kept", "rank", "tap", "statistic"
NOISE_DIMS = (TAP, STATISTIC, "batch", "position")
GENERATED_PRECISIONS = ("float64", "float32")
GENERATED = {"tokens": "int32", "margins": "float64"}
GENERATED_DIMS = ("batch", "step")
# What there is beside the largest logits: see `harness.top`.
TOP = {"ids": "int32", "log_sum_exp": "float64", "outside": "float64", "outside_logit": "float64"}
LAYERS = "layers"
Labels = tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """Taps that lie in one array: one tap outside the layers, or one kind in the layers that recorded it.

    Attributes:
        name: `q_rope`, `logits`; `q_rope.7` where the layers of a kind differ in shape, for those of one shape, of
            which layer 7 is the first; `encoder.q_rope` where the layers are not called `layers`.
        dims: of the array, the layer first.
        layers: the layer of each tap; none outside the layers.
    """

    name: str
    dims: tuple[str, ...]
    taps: tuple[str, ...]
    layers: tuple[int, ...]


def input_path(case: str, name: str) -> str:
    """Where `input_ids`, `positions` and `mask` lie: int32, int32 and bool [batch, position]."""
    return f"cases/{case}/{name}"


def stack_path(case: str, stack: str) -> str:
    """Where the truth of a stack of taps lies."""
    return f"cases/{case}/taps/{stack}"


def noise_path(case: str, precision: str, kind: str) -> str:
    """Where a case's noise floors lie: float32 [tap, statistic, batch, position].

    One array for all taps (in the order of `CaseEntry.taps`), since every tap has one value per position:
    a golden then has a hundred noise arrays instead of ten thousand.
    """
    return f"cases/{case}/noise/{precision}_{kind}"


def generated_path(case: str, precision: str, name: str) -> str:
    """Where the reference's greedy continuation lies, at float64 and float32: `tokens` int32 [batch, step], and
    `margins` float64 [batch, step], by how much the logits prefer each over the runner-up."""
    return f"cases/{case}/generated/{precision}_{name}"


def top_path(case: str, name: str) -> str:
    """Where lies what a case has beside its largest logits: `ids` int32 [batch, position, rank], else float64
    [batch, position]."""
    return f"cases/{case}/top/{name}"


def stored_dims(case: CaseEntry, tap: Tap) -> tuple[str, ...]:
    """The dimension names of one tap as it is stored: `kept` in place of `position` where only some are, `rank` in
    place of `vocab` where the largest are."""
    dims = tap.dims
    if case.top and tap.kind == "logits":
        dims = tuple(RANK if dim == "vocab" else dim for dim in dims)
    if not case.kept or tap.kind in FULL_KINDS:
        return dims
    return tuple(KEPT if dim == "position" else dim for dim in dims)


def label_path(array: str, dim: str) -> str:
    """Where a dimension of an array has its length, and its labels where it has some.

    What can differ from group to group lies beside the array, everything else once in the case.
    """
    parts = array.split("/")
    own = dim in (TAP, STATISTIC) or dim == LAYER or dim.startswith(f"{LAYER}.")
    return "/".join([*(parts[:-1] if own else parts[:2]), dim]) if len(parts) > 2 else dim


def layer_of(tap: str) -> int | None:
    """The layer that a tap belongs to; None outside the layers."""
    parts = tap.split(".")
    return int(parts[1]) if len(parts) == 3 else None


_Alike = tuple[tuple[str, ...], bool, bool]  # what cases have in common that have the same stacks


def _alike(case: CaseEntry) -> _Alike:
    return case.taps, bool(case.kept), bool(case.top)


class Layout:
    """The arrays of one golden."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._taps = {tap.name: tap for tap in manifest.taps}
        self._stacks: dict[_Alike, tuple[Stack, ...]] = {}
        self._places: dict[_Alike, dict[str, tuple[str, int | None]]] = {}

    def stacks(self, case: CaseEntry) -> tuple[Stack, ...]:
        """The stacks of a case, in data-flow order."""
        key = _alike(case)
        if key not in self._stacks:
            self._stacks[key] = tuple(self._stacked(case))
        return self._stacks[key]

    def place(self, case: CaseEntry, tap: str) -> tuple[str, int | None]:
        """The array in which a tap lies, and its place along the layers; None outside the layers."""
        key = _alike(case)
        if key not in self._places:
            self._places[key] = {
                name: (stack.name, index if stack.layers else None)
                for stack in self.stacks(case)
                for index, name in enumerate(stack.taps)
            }
        stack_name, layer = self._places[key][tap]
        return stack_path(case.name, stack_name), layer

    def forms(self) -> Iterator[tuple[str, Form]]:
        """Every array's path and form, in storage order."""
        manifest = self._manifest
        for case in manifest.cases:
            batch, length = case.shape
            for name, dtype in INPUTS.items():
                yield input_path(case.name, name), Form(case.shape, dtype, TOKENS)
            for stack in self.stacks(case):
                yield stack_path(case.name, stack.name), self._form(case, stack)
            position = KEPT if case.kept else "position"  # along which a cache tap has its slots in noise floors
            shape = (len(case.taps), len(manifest.statistics), batch, len(case.kept) or length)
            noise = Form(shape, "float32", (*NOISE_DIMS[:-1], position))
            for precision in manifest.precisions:
                for kind in NOISE_KINDS:
                    yield noise_path(case.name, precision, kind), noise
            for name, dtype in TOP.items() if case.top else ():
                sizes, dims = (batch, len(case.kept) or length, case.top or 0), ("batch", position, RANK)
                count = 3 if name == "ids" else 2
                yield top_path(case.name, name), Form(sizes[:count], dtype, dims[:count])
            for precision in GENERATED_PRECISIONS if case.generated else ():
                for name, dtype in GENERATED.items():
                    form = Form((batch, case.generated), dtype, GENERATED_DIMS)
                    yield generated_path(case.name, precision, name), form

    @cached_property
    def labels(self) -> dict[str, Labels]:
        """The labels of every dimension that has some, by `label_path`."""
        labels: dict[str, Labels] = {}
        for case in self._manifest.cases:
            if case.kept:
                labels[label_path(input_path(case.name, "mask"), KEPT)] = case.kept
            for stack in self.stacks(case):
                if stack.layers:
                    labels[label_path(stack_path(case.name, stack.name), stack.dims[0])] = stack.layers
            if self._manifest.precisions:
                noise = noise_path(case.name, "", "")
                labels[label_path(noise, TAP)] = case.taps
                labels[label_path(noise, STATISTIC)] = self._manifest.statistics
        return labels

    def _form(self, case: CaseEntry, stack: Stack) -> Form:
        tap = self._taps[stack.taps[0]]
        own = {
            "batch": case.shape[0],
            KEPT: len(case.kept),
            RANK: case.top or 0,
            **dict.fromkeys(CASE_DIMS[1:], case.shape[1]),
        }
        dims = stored_dims(case, tap)
        shape = tuple(own[dim] if dim in own else size_of(self._manifest.sizes, tap, dim) for dim in dims)
        return Form((len(stack.layers), *shape) if stack.layers else shape, self._manifest.truth_dtype, stack.dims)

    def _stacked(self, case: CaseEntry) -> Iterator[Stack]:
        kinds: dict[str, dict[object, list[Tap]]] = {}  # base name -> shape -> the taps that have it
        everywhere: dict[str, set[int]] = {}
        for tap in (self._taps[name] for name in case.taps):
            layer, prefix = layer_of(tap.name), tap.name.partition(".")[0]
            base = tap.kind if layer is None or prefix == LAYERS else f"{prefix}.{tap.kind}"
            sizes = [size_of(self._manifest.sizes, tap, dim) for dim in tap.dims if dim not in CASE_DIMS]
            kinds.setdefault(base, {}).setdefault((tap.dims, *sizes), []).append(tap)
            if layer is not None:
                everywhere.setdefault(prefix, set()).add(layer)
        for base, groups in kinds.items():
            for taps in groups.values():
                name = base if len(groups) == 1 else f"{base}.{layer_of(taps[0].name)}"
                yield _stack(case, name, taps, everywhere, self._manifest.sizes)


def _stack(
    case: CaseEntry, name: str, taps: Sequence[Tap], everywhere: Mapping[str, set[int]], sizes: Mapping[str, int]
) -> Stack:
    """One stack. A name has one length in the tree of a case, so a dimension that has another has another name.

    The first is `layer` where the stack has every layer of the case, and else its own. One whose size is that of
    some layers alone is called after the first of them: `head.1`.
    """
    layers = tuple(layer for tap in taps if (layer := layer_of(tap.name)) is not None)
    dims = stored_dims(case, taps[0])
    if layers:
        prefix, stage = taps[0].name.partition(".")[0], taps[0].stage
        own = stage.removeprefix(f"{LAYERS}.")
        dims = tuple(f"{dim}.{own}" if f"{stage}.{dim}" in sizes else dim for dim in dims)
        whole = set(layers) == everywhere[prefix]
        dims = (LAYER if whole and prefix == LAYERS else f"{LAYER}.{prefix if whole else name}", *dims)
    return Stack(name, dims, tuple(tap.name for tap in taps), layers)


def size_of(sizes: Mapping[str, int], tap: Tap, dim: str) -> int:
    """The size of a tap's dimension that is no matter of the case: its own layer's, or that of all layers."""
    return sizes.get(f"{tap.stage}.{dim}", sizes.get(dim, 0))


def sizes_of(taps: Sequence[Tap], sizes: Mapping[str, int]) -> dict[str, int]:
    """What a manifest says of the sizes of its taps' dimensions, from the sizes of all dimensions of a model."""
    dims = dict.fromkeys(dim for tap in taps for dim in tap.dims if dim not in CASE_DIMS)
    return {name: size for name, size in sizes.items() if name.rpartition(".")[2] in dims}
