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
from harness.corpus import CASE_NAME
from harness.errors import CheckpointError, GoldenError
from harness.golden import (
    NOISE_DIMS,
    NOISE_KINDS,
    NOISE_PRECISIONS,
    STATISTICS,
    CaseEntry,
    Manifest,
    input_path,
    noise_path,
    tap_path,
)
from harness.store.refusals import FETCH_AGAIN
from harness.taps import LEVELS, TOKENS, Tap, at_level

TAP_NAME = re.compile(r"(?:[a-z][a-z0-9_]*\.[0-9]+\.)?[a-z][a-z0-9_]*")
ARRAY_PATH = re.compile(
    rf"cases/{CASE_NAME.pattern}/"
    rf"(?:input_ids|positions|mask|taps/{TAP_NAME.pattern}|noise/[a-z0-9]+/[a-z]+)"
)
INPUTS = {"input_ids": "int32", "positions": "int32", "mask": "bool"}
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
        if min(case.shape) < 1:
            raise _malformed("a case is empty", f"{where}: {case.name}", "[batch, position]", case.shape)
        sizes = architecture.sizes(*case.shape)
        for name, dtype in INPUTS.items():
            yield input_path(case.name, name), Form(case.shape, dtype, TOKENS)
        for tap in (taps[name] for name in case.taps):
            shape = tuple(sizes.get(dim, 0) for dim in tap.dims)
            yield tap_path(case.name, tap.name), Form(shape, manifest.truth_dtype, tap.dims)
        noise = (len(case.taps), len(STATISTICS), *case.shape)
        for precision in manifest.precisions:
            for kind in NOISE_KINDS:
                yield noise_path(case.name, precision, kind), Form(noise, "float32", NOISE_DIMS)


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
    expected = tuple(tap.name for tap in at_level(taps, case.level))
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
