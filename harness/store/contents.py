"""What a manifest promises: which arrays there are, of which shape, dtype and dimension names.

The manifest lists its arrays, and it describes its cases. Each follows from the other, so both are
compared, when a golden is written and when it is opened: a golden that opens is whole on paper, and
every name in it is safe to use as a path.
"""

from __future__ import annotations

from harness.golden import (
    CASE_KINDS,
    CASE_NAME,
    FORMAT_VERSION,
    NOISE_PRECISIONS,
    NOISE_STATISTICS,
    SELECTIVE_VERSION,
    CaseEntry,
    Form,
    Manifest,
    decode,
    encode,
)
from harness.layout import Layout, size_of
from harness.selecting import EVERYTHING, LEVELS, Selected, at_level, is_rule
from harness.store.abc import DIGEST
from harness.store.graph import check_graph, check_unique
from harness.store.refusals import damaged

TRUTH_DTYPES = ("float64", "float32")

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
    if case.kind not in CASE_KINDS:
        raise damaged("a case is of an unknown kind", where, ", ".join(CASE_KINDS), case.kind)
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
    if manifest.statistics != NOISE_STATISTICS:
        raise damaged("noise floors have other statistics", where, NOISE_STATISTICS, manifest.statistics)
    cases = [case.name for case in manifest.cases]
    check_unique("case", where, cases)
    check_unique("precision", where, manifest.precisions)
    for name in cases:
        if not CASE_NAME.fullmatch(name):
            raise damaged("a case's name is not in the grammar", where, CASE_NAME.pattern, name[:100])
    for precision in manifest.precisions:
        if precision not in NOISE_PRECISIONS:
            expected = ", ".join(NOISE_PRECISIONS)
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
            what = f"its level {case.level!r}{' and the selection' if manifest.selection else ''}"
            raise damaged(f"a case's taps are not those of {what}", f"{where}: {case.name}", *first)
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
    needed = SELECTIVE_VERSION if selected or narrowed else FORMAT_VERSION
    if manifest.version != needed or (isinstance(manifest.selected, Selected) and not selected):
        raise damaged("a golden is not of the version of what it holds", where, needed, manifest.version)


def _vocabulary(manifest: Manifest) -> int:
    """How many logits there are at a position."""
    tap = next(tap for tap in manifest.taps if tap.name == "logits")
    return size_of(manifest.sizes, tap, "vocab") if "vocab" in tap.dims else 0
