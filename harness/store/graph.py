"""The taps of a manifest: a graph that can be followed, of names that can be paths, with sizes that are known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from harness.golden import LAYER, Manifest
from harness.layout import CASE_DIMS, INPUTS, KEPT, LAYERS, RANK, STATISTIC, TAP, layer_of
from harness.store.refusals import damaged
from harness.taps import CACHE_KINDS, Tap

NAME = r"[a-z][a-z0-9_]{0,31}"
TAP_NAME = re.compile(rf"(?:{NAME}\.(?:0|[1-9][0-9]{{0,4}})\.)?{NAME}")
DIM_NAME = re.compile(NAME)
# Names that mean something else in the tree or along an array.
RESERVED = {LAYER, TAP, STATISTIC, KEPT, RANK, *INPUTS}
RESERVED |= {"step", "manifest_byte", "taps", "noise", "top", "generated"}
# Where a published config says the size of a dimension.
CONFIG_SIZES = {
    "hidden_size": "hidden",
    "num_attention_heads": "head",
    "num_key_value_heads": "kv_head",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate",
    "vocab_size": "vocab",
}


def check_graph(manifest: Manifest, where: str) -> None:
    """Look at every tap before anything follows one.

    Raises:
        GoldenError: a name that is not in the grammar or stands for two things; an input that is unknown, the tap
            itself, or not before it; dimensions without a name, a size or a meaning; layers that are not counted
            from 0, or not as many as the config says.
    """
    check_unique("tap", where, [tap.name for tap in manifest.taps])
    before: set[str] = set()
    for tap in manifest.taps:
        if not TAP_NAME.fullmatch(tap.name):
            raise damaged("a tap's name is not in the grammar", where, TAP_NAME.pattern, tap.name[:100])
        _check_dims(tap, manifest.sizes, f"{where}: {tap.name}")
        _check_inputs(tap, before, f"{where}: {tap.name}")
        before.add(tap.name)
    if "logits" not in before:
        raise damaged("a golden without logits", where, "a tap called logits", "none")
    _check_sizes(manifest, where)
    _check_stages(manifest, where)


def _check_dims(tap: Tap, sizes: Mapping[str, int], where: str) -> None:
    check_unique("dimension", where, tap.dims)
    for dim in tap.dims:
        if not DIM_NAME.fullmatch(dim) or dim in RESERVED:
            raise damaged("a dimension's name is not in the grammar", where, DIM_NAME.pattern, dim[:100])
        if dim not in CASE_DIMS and not {dim, f"{tap.stage}.{dim}"} & set(sizes):
            raise damaged("a dimension has no size", where, "a size for each", dim)
    tokens = "slot" if tap.kind in CACHE_KINDS else "position"
    if tap.dims[:1] != ("batch",) or tokens not in tap.dims:
        raise damaged("a tap's dimensions are not those of a tap", where, f"batch first, and {tokens}", tap.dims)


def _check_inputs(tap: Tap, before: set[str], where: str) -> None:
    check_unique("input", where, tap.inputs)
    for name in tap.inputs:
        if name == tap.name:
            raise damaged("a tap is its own input", where, "taps before it", name)
        if name not in before:
            problem = "an input of a tap is unknown, or not before it: the taps are not in data-flow order"
            raise damaged(problem, where, "the name of a tap before it", name[:100])


def _check_sizes(manifest: Manifest, where: str) -> None:
    """Every size is one of a tap's, and what the config says too is the same there."""
    used = {name for tap in manifest.taps for dim in tap.dims for name in (dim, f"{tap.stage}.{dim}")}
    for dim, size in manifest.sizes.items():
        if dim not in used or dim in CASE_DIMS or size < 1:
            raise damaged(
                "a size is no dimension's", where, "the size of a tap's dimension", f"{dim[:100]}: {size}"
            )
    for field, dim in CONFIG_SIZES.items():
        stated, recorded = manifest.model.config.get(field), manifest.sizes.get(dim)
        if type(stated) is int and recorded is not None and stated != recorded:
            raise damaged(f"taps and config differ in {field}", f"{where}: model.config", stated, recorded)


def _check_stages(manifest: Manifest, where: str) -> None:
    """Layers are counted from 0 without a gap; no name is both a stage's and a kind's, or inside and outside."""
    layers: dict[str, dict[int, None]] = {}
    inside: set[str] = set()
    outside: set[str] = set()
    for tap in manifest.taps:
        layer = layer_of(tap.name)
        (outside if layer is None else inside).add(tap.kind)
        if layer is not None:
            layers.setdefault(tap.name.partition(".")[0], {})[layer] = None
    for name in (inside & outside) | ((inside | outside) & (layers.keys() | {LAYER})) | (layers.keys() & {LAYER}):
        raise damaged("one name stands for two kinds of things", where, "a name for each", name)
    for prefix, found in layers.items():
        if list(found) != list(range(len(found))):
            problem = "the layers are not counted from 0 without a gap"
            raise damaged(problem, where, len(found), f"{prefix}.{max(found)}")
    stated, count = manifest.model.config.get("num_hidden_layers"), len(layers.get(LAYERS, ()))
    if type(stated) is int and stated != count:
        raise damaged("taps and config differ in num_hidden_layers", f"{where}: model.config", stated, count)


def check_unique(kind: str, where: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise damaged(f"one {kind} name stands for two things", where, "one of them", name[:100])
