"""What a manifest promises: which arrays there are, of which shape, dtype and dimension names.

The manifest lists its arrays, and it describes its cases. Each follows from the other, so both are
compared, when a golden is written and when it is opened: a golden that opens is whole on paper, and
every name in it is safe to use as a path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.architecture import architecture_of
from harness.entries import CASE_NAME, KINDS
from harness.errors import CheckpointError, GoldenError
from harness.golden import (
    GENERATED,
    GENERATED_DIMS,
    GENERATED_PRECISIONS,
    NOISE_KINDS,
    NOISE_PRECISIONS,
    STATISTICS,
    CaseEntry,
    Manifest,
    generated_path,
    input_path,
    noise_dims,
    noise_path,
    stored_dims,
    tap_path,
)
from harness.store.refusals import FETCH_AGAIN
from harness.taps import LEVELS, TOKENS, Tap, at_level

TAP_NAME = re.compile(r"(?:[a-z][a-z0-9_]*\.[0-9]+\.)?[a-z][a-z0-9_]*")
ARRAY_PATH = re.compile(
    rf"cases/{CASE_NAME.pattern}/"
    rf"(?:input_ids|positions|mask|taps/{TAP_NAME.pattern}|(?:noise|generated)/[a-z0-9]+/[a-z]+)"
)
INPUTS = {"input_ids": "int32", "positions": "int32", "mask": "bool"}
CASE_KINDS = tuple(kind.kind for kind in KINDS)
TRUTH_DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Form:
    """The form of an array: all that is known of it before its values."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]


def check_contents(manifest: Manifest, where: str) -> None:
    """Compare the list of arrays with what the cases promise.

    Raises:
        GoldenError: a bad or repeated name, a missing or extra array, another shape, dtype or dimension.
    """
    promised = dict(_promised(manifest, where))
    for path in promised:
        if path not in manifest.arrays:
            raise _malformed("the manifest lacks an array that its cases promise", where, path, None)
    for path, entry in manifest.arrays.items():
        found = Form(entry.shape, entry.dtype, entry.dims)
        if path not in promised:
            raise _malformed("the manifest lists an array that belongs to no case", where, None, path)
        if found != promised[path]:
            problem = "an array has another form than its case and the model's config give it"
            raise _malformed(problem, f"{where}: {path}", promised[path], found)


def _promised(manifest: Manifest, where: str) -> Iterator[tuple[str, Form]]:
    """Every array's path and form, in storage order."""
    try:
        architecture = architecture_of(manifest.model.config)
    except CheckpointError as error:
        raise _malformed(
            f"the golden's model is not known to this release: {error.problem}",
            where,
            error.expected,
            error.found,
        ) from None
    taps = {tap.name: tap for tap in manifest.taps}
    _check_names(manifest, where)
    for case in manifest.cases:
        _check_case(case, f"{where}: {case.name}")
        sizes = architecture.sizes(*case.shape) | {"kept": len(case.kept)}
        for name, dtype in INPUTS.items():
            yield input_path(case.name, name), Form(case.shape, dtype, TOKENS)
        for tap in (taps[name] for name in case.taps):
            dims = stored_dims(case, tap)
            shape = tuple(sizes.get(dim, 0) for dim in dims)
            yield tap_path(case.name, tap.name), Form(shape, manifest.truth_dtype, dims)
        noise = (len(case.taps), len(STATISTICS), case.shape[0], len(case.kept) or case.shape[1])
        for precision in manifest.precisions:
            for kind in NOISE_KINDS:
                yield noise_path(case.name, precision, kind), Form(noise, "float32", noise_dims(case))
        for precision in GENERATED_PRECISIONS if case.generated else ():
            for what, dtype in GENERATED.items():
                form = Form((case.shape[0], case.generated), dtype, GENERATED_DIMS)
                yield generated_path(case.name, precision, what), form


def _check_case(case: CaseEntry, where: str) -> None:
    """What a case says of its own shape."""
    batch, length = case.shape
    if min(case.shape) < 1:
        raise _malformed("a case is empty", where, "[batch, position]", case.shape)
    if case.kind not in CASE_KINDS:
        raise _malformed("a case is of an unknown kind", where, ", ".join(CASE_KINDS), case.kind)
    if case.calls and (sum(case.calls) != length or min(case.calls) < 1):
        raise _malformed("a case's calls are not its tokens", where, f"{length} tokens", case.calls)
    if any(b <= a for a, b in zip((-1, *case.kept), (*case.kept, length), strict=True)):
        raise _malformed("the positions that a case keeps do not ascend within it", where, length, case.kept)
    if case.kept and case.cached:
        raise _malformed("a case with a cache keeps all of its positions", where, "all", case.kept)
    if case.rows and len(case.rows) != batch:
        raise _malformed("a batch does not have one prompt for each row", where, batch, len(case.rows))
    if not 0 <= case.generated <= length:
        raise _malformed("a case generated more than its tokens", where, f"0 to {length}", case.generated)


def _check_names(manifest: Manifest, where: str) -> None:
    """Every name in the grammar, and once: names become paths, and a path must not lead elsewhere."""
    if manifest.truth_dtype not in TRUTH_DTYPES:
        expected = " or ".join(TRUTH_DTYPES)
        raise _malformed("truth has an unknown dtype", where, expected, manifest.truth_dtype)
    taps, cases = [tap.name for tap in manifest.taps], [case.name for case in manifest.cases]
    _check_unique("tap", where, taps)
    _check_unique("case", where, cases)
    _check_unique("precision", where, manifest.precisions)
    for name in taps:
        if not TAP_NAME.fullmatch(name):
            raise _malformed("a tap's name is not in the grammar", where, TAP_NAME.pattern, name)
    for name in cases:
        if not CASE_NAME.fullmatch(name):
            raise _malformed("a case's name is not in the grammar", where, CASE_NAME.pattern, name)
    for precision in manifest.precisions:
        if precision not in NOISE_PRECISIONS:
            expected = ", ".join(NOISE_PRECISIONS)
            raise _malformed("a noise floor of an unknown precision", where, expected, precision)
    for case in manifest.cases:
        _check_taps(case, manifest.taps, f"{where}: {case.name}")


def _check_taps(case: CaseEntry, taps: tuple[Tap, ...], where: str) -> None:
    """A case records what its level says, in data-flow order: the noise floors are indexed by it."""
    if case.level not in LEVELS:
        raise _malformed("a case has an unknown level", where, ", ".join(LEVELS), case.level)
    expected = tuple(tap.name for tap in at_level(taps, case.level, case.cached))
    if case.taps != expected:
        different = [pair for pair in zip(expected, case.taps, strict=False) if pair[0] != pair[1]]
        first = different[0] if different else (f"{len(expected)} taps", f"{len(case.taps)} taps")
        raise _malformed(f"a case's taps are not those of its level {case.level!r}", where, *first)


def _check_unique(kind: str, where: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise _malformed(f"one {kind} name stands for two things", where, "one of them", name)


def _malformed(problem: str, where: str, expected: object, found: object) -> GoldenError:
    return GoldenError(problem, where=where, expected=expected, found=found, hint=FETCH_AGAIN)
