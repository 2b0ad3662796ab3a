"""What a manifest promises: which arrays there are, of which shape, dtype and dimension names.

The manifest lists its arrays, and it describes its cases. Each follows from the other, so both are
compared, when a golden is written and when it is opened: a golden that opens is whole on paper, and
every name in it is safe to use as a path. Its taps are a graph that can be followed, with sizes that are known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from harness import golden
from harness.golden import LAYER, CaseEntry, Form, Manifest, decode, encode
from harness.layout import CASE_DIMS, INPUTS, KEPT, LAYERS, RANK, STATISTIC, TAP, Layout, layer_of, size_of
from harness.selecting import EVERYTHING, LEVELS, Selected, at_level, is_rule
from harness.store.abc import DIGEST, damaged
from harness.taps import CACHE_KINDS, Tap

TRUTH_DTYPES = ("float64", "float32")
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

# Manifests that were found whole, by their sha256. A process opens the same few goldens again and again: when it
# writes one, compares two sides, runs tests. What a manifest says of itself is looked through once.
_WHOLE: dict[str, tuple[Manifest, Layout]] = {}
_MOST = 4


def checked(encoded: bytes, digest: str, where: str) -> tuple[Manifest, Layout]:
    """A manifest and the layout of its arrays, from its bytes. Both are shared, and not to be changed.

    Args:
        digest: the sha256 of these bytes.

    Raises:
        GoldenError: it is no manifest of this release, or contradicts itself.
    """
    if (known := _WHOLE.get(digest)) is not None:
        return known
    manifest = decode(encoded, where)
    if encode(manifest) != encoded:
        raise damaged("the manifest has fields that this release does not know, or is not canonical JSON", where)
    check_contents(manifest, where)
    for oldest in list(_WHOLE)[: len(_WHOLE) + 1 - _MOST]:
        _WHOLE.pop(oldest, None)
    whole = _WHOLE[digest] = manifest, Layout(manifest)
    return whole


def check_contents(manifest: Manifest, where: str) -> None:
    """Compare the list of arrays with what the cases promise.

    Raises:
        GoldenError: see `promised`; a missing or extra array, another shape, dtype or dimension.
    """
    forms = promised(manifest, where)
    for path in forms:
        if path not in manifest.arrays:
            raise damaged("the manifest lacks an array that its cases promise", where, path, None)
    for path, entry in manifest.arrays.items():
        if path not in forms:
            raise damaged("the manifest lists an array that belongs to no case", where, None, path[:200])
        if entry.form != forms[path]:
            problem = "an array has another form than its case and its taps give it"
            raise damaged(problem, f"{where}: {path}", forms[path], entry.form)
        if len(entry.sha256) != entry.slabs or not all(map(DIGEST.fullmatch, entry.sha256)):
            problem = "an array does not have a sha256 for each of its slabs"
            raise damaged(problem, f"{where}: {path}", f"{entry.slabs} of 64 digits", len(entry.sha256))


def promised(manifest: Manifest, where: str) -> dict[str, Form]:
    """Every array's form by its path, in storage order, from all of the manifest but its list of arrays.

    Raises:
        GoldenError: a bad or repeated name, taps that are no graph, a case that contradicts itself.
    """
    check_graph(manifest, where)
    _check_selection(manifest, where)
    _check_names(manifest, where)
    _check_taps(manifest, where)
    for case in manifest.cases:
        _check_case(case, f"{where}: {case.name}")
        if isinstance(case.top, int) and ("logits" not in case.taps or not 2 <= case.top < _vocabulary(manifest)):
            found = f"{case.top} of {_vocabulary(manifest)}"
            raise damaged("a case has no such number of its logits", f"{where}: {case.name}", "2 or more", found)
    return dict(Layout(manifest).forms())


def _check_case(case: CaseEntry, where: str) -> None:
    """What a case says of its own shape."""
    batch, length = case.shape
    if min(case.shape) < 1:
        raise damaged("a case is empty", where, "[batch, position]", case.shape)
    if case.kind not in golden.CASE_KINDS:
        raise damaged("a case is of an unknown kind", where, ", ".join(golden.CASE_KINDS), case.kind)
    if case.calls and (sum(case.calls) != length or min(case.calls) < 1):
        raise damaged("a case's calls are not its tokens", where, f"{length} tokens", case.calls)
    if any(b <= a for a, b in zip((-1, *case.kept), (*case.kept, length), strict=True)):
        raise damaged("the positions that a case keeps do not ascend within it", where, length, case.kept)
    if case.kept and case.cached:
        raise damaged("a case with a cache keeps all of its positions", where, "all", case.kept)
    if case.rows and len(case.rows) != batch:
        raise damaged("a batch does not have one prompt for each row", where, batch, len(case.rows))
    if not 0 <= case.generated <= length:
        raise damaged("a case generated more than its tokens", where, f"0 to {length}", case.generated)


def _check_names(manifest: Manifest, where: str) -> None:
    """Every name in the grammar, and once: names become paths, and a path must not lead elsewhere."""
    if manifest.truth_dtype not in TRUTH_DTYPES:
        expected = " or ".join(TRUTH_DTYPES)
        raise damaged("truth has an unknown dtype", where, expected, manifest.truth_dtype)
    if manifest.statistics != golden.NOISE_STATISTICS:
        raise damaged("noise floors have other statistics", where, golden.NOISE_STATISTICS, manifest.statistics)
    cases = [case.name for case in manifest.cases]
    check_unique("case", where, cases)
    check_unique("precision", where, manifest.precisions)
    for name in cases:
        if not golden.CASE_NAME.fullmatch(name):
            raise damaged("a case's name is not in the grammar", where, golden.CASE_NAME.pattern, name[:100])
    for precision in manifest.precisions:
        if precision not in golden.NOISE_PRECISIONS:
            expected = ", ".join(golden.NOISE_PRECISIONS)
            raise damaged("a noise floor of an unknown precision", where, expected, precision)


def _check_taps(manifest: Manifest, where: str) -> None:
    """A case records what its level and the selection say, in data-flow order: noise floors are indexed by it."""
    recorded: dict[tuple[str, bool], tuple[str, ...]] = {}
    whole: dict[tuple[str, bool], tuple[str, ...]] = {}
    for case in manifest.cases:
        if case.level not in LEVELS:
            raise damaged("a case has an unknown level", where, ", ".join(LEVELS), case.level)
        key = case.level, case.cached
        if key not in recorded:
            recorded[key], whole[key] = (
                tuple(tap.name for tap in at_level(manifest.taps, *key, selected))
                for selected in (manifest.selection, EVERYTHING)
            )
        expected = recorded[key]
        if case.taps != expected:
            different = [pair for pair in zip(expected, case.taps, strict=False) if pair[0] != pair[1]]
            first = different[0] if different else (f"{len(expected)} taps", f"{len(case.taps)} taps")
            source = f"its level {case.level!r}{' and the selection' if manifest.selection else ''}"
            raise damaged(f"a case's taps are not those of {source}", f"{where}: {case.name}", *first)
        if not case.taps:
            raise damaged("a case records nothing", f"{where}: {case.name}", "a tap", "none")
        if bool(case.partly) != (case.taps != whole[key]):
            problem = "a case is not as complete as it says"
            raise damaged(problem, f"{where}: {case.name}", f"{len(whole[key])} taps", case.depth)


def _check_selection(manifest: Manifest, where: str) -> None:
    """What selects is in the one form that it has, and the version is that of what the manifest holds."""
    selected = manifest.selection
    if selected.layers and not is_rule(selected.layers):
        problem = "the layers that a golden was recorded at are no rule"
        raise damaged(problem, where, "a rule", selected.layers[:100])
    if selected != Selected.asked(selected.taps, selected.layers or None):
        raise damaged("a selection is not in its canonical form", where, "sorted, once each", selected.words[:4])
    narrowed = any(isinstance(case.top, int) for case in manifest.cases)
    needed = golden.SELECTIVE_VERSION if selected or narrowed else golden.FORMAT_VERSION
    if manifest.version != needed or (isinstance(manifest.selected, Selected) and not selected):
        raise damaged("a golden is not of the version of what it holds", where, needed, manifest.version)


def _vocabulary(manifest: Manifest) -> int:
    """How many logits there are at a position."""
    tap = next(tap for tap in manifest.taps if tap.name == "logits")
    return size_of(manifest.sizes, tap, "vocab") if "vocab" in tap.dims else 0


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
    for prefix, indices in layers.items():
        if list(indices) != list(range(len(indices))):
            problem = "the layers are not counted from 0 without a gap"
            raise damaged(problem, where, len(indices), f"{prefix}.{max(indices)}")
    stated, count = manifest.model.config.get("num_hidden_layers"), len(layers.get(LAYERS, ()))
    if type(stated) is int and stated != count:
        raise damaged("taps and config differ in num_hidden_layers", f"{where}: model.config", stated, count)


def check_unique(kind: str, where: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise damaged(f"one {kind} name stands for two things", where, "one of them", name[:100])
