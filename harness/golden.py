"""The golden as plain data: what its manifest says, and where its arrays lie.

The manifest is canonical JSON; the sha256 of its bytes is the golden's identity. It holds nothing that
differs between two recordings of the same thing on the same machine: no time, no path.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.errors import GoldenError
from harness.taps import FULL_KINDS, Tap

FORMAT = "goldens"
FORMAT_VERSION = 2
NOISE_PRECISIONS = ("float32", "bfloat16")
NOISE_KINDS = ("forward", "replay")
# What is recorded of PyTorch's error at a position, over its draws: the root of the mean square, the largest (the root
# of the mean of its square), in how many numbers the error effectively is, and the variance over the draws of the
# logarithm of the mean square. See `harness.calibration`.
STATISTICS = ("rms", "max", "numbers", "spread")


@dataclass(frozen=True)
class ArrayEntry:
    """One stored array: little-endian, C order; sha256 over exactly those bytes."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class ParameterEntry:
    """One tensor of the checkpoint, hashed as it is stored there."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class ModelEntry:
    """Phase 1 facts: what was recorded."""

    id: str
    config: dict[str, Any]
    parameters: dict[str, ParameterEntry]
    parameter_count: int
    biases: tuple[str, ...]


@dataclass(frozen=True)
class TokenizerEntry:
    """Phase 2 facts: sha256 of tokenizer.json, and whether it is the published Qwen2 tokenizer."""

    sha256: str
    is_qwen2: bool


@dataclass(frozen=True)
class RowEntry:
    """One row of a batch: the prompt that it is, which may also be a case of its own, and its text."""

    prompt: str
    text: str


@dataclass(frozen=True)
class CaseEntry:
    """One case: where it comes from, how deep it was recorded, and which taps in which order.

    Attributes:
        text: what was tokenized; empty for a batch, whose `rows` have one each.
        calls: how many tokens each forward pass gets, in order; empty means all in one. With several, a KV cache
            is carried from one to the next.
        kept: the positions at which taps are stored; empty means all. `FULL_KINDS` are stored at all positions.
        draws: how often PyTorch's error was drawn.
        generated: how many tokens the reference generated after `text`.
    """

    name: str
    kind: str
    text: str
    why: str
    tags: tuple[str, ...]
    level: str
    shape: tuple[int, int]
    taps: tuple[str, ...]
    calls: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    draws: int = 1
    rows: tuple[RowEntry, ...] = ()
    generated: int = 0

    @property
    def cached(self) -> bool:
        """Whether it runs through a KV cache."""
        return len(self.calls) > 1

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of every row."""
        return tuple(row.text for row in self.rows) or (self.text,)


@dataclass(frozen=True)
class Manifest:
    """Everything about a golden except its arrays. See goldens/README.md, the format's specification."""

    format: str
    version: int
    model: ModelEntry
    tokenizer: TokenizerEntry
    corpus_sha256: str
    level: str
    truth_dtype: str
    precisions: tuple[str, ...]
    taps: tuple[Tap, ...]
    cases: tuple[CaseEntry, ...]
    environment: dict[str, Any]
    command: str
    arrays: dict[str, ArrayEntry]

    def case(self, name: str) -> CaseEntry:
        """The entry of one case.

        Raises:
            GoldenError: the golden has no case of that name.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise GoldenError(
            "the golden has no case of this name",
            where=name,
            expected=", ".join(case.name for case in self.cases),
            found=name,
            hint="`goldens show GOLDEN` lists its cases",
        )


def input_path(case: str, name: str) -> str:
    """Where `input_ids`, `positions` and `mask` lie: int32, int32 and bool [batch, position]."""
    return f"cases/{case}/{name}"


def tap_path(case: str, tap: str) -> str:
    """Where the truth of a tap lies: float64 (or float32 by choice), dimensions as in `Tap.dims`."""
    return f"cases/{case}/taps/{tap}"


def noise_path(case: str, precision: str, kind: str) -> str:
    """Where a case's noise floors lie: float32 [tap, statistic, batch, position].

    One array for all taps (in the order of `CaseEntry.taps`), since every tap has one value per position:
    a golden then has a hundred noise arrays instead of ten thousand.
    """
    return f"cases/{case}/noise/{precision}/{kind}"


def generated_path(case: str, precision: str, what: str) -> str:
    """Where the reference's greedy continuation lies, at float64 and float32: `tokens` int32 [batch, step], and
    `margins` float64 [batch, step], by how much the logits prefer each over the runner-up."""
    return f"cases/{case}/generated/{precision}/{what}"


def stored_dims(case: CaseEntry, tap: Tap) -> tuple[str, ...]:
    """The dimension names of a tap as it is stored: `kept` in place of `position` where only some are."""
    if not case.kept or tap.kind in FULL_KINDS:
        return tap.dims
    return tuple("kept" if dim == "position" else dim for dim in tap.dims)


NOISE_DIMS = ("tap", "statistic", "batch", "position")


def noise_dims(case: CaseEntry) -> tuple[str, ...]:
    """The dimension names of noise floors. A cache tap has its slots along `position`."""
    return (*NOISE_DIMS[:-1], "kept") if case.kept else NOISE_DIMS


GENERATED_PRECISIONS = ("float64", "float32")
GENERATED = {"tokens": "int32", "margins": "float64"}
GENERATED_DIMS = ("batch", "step")


def encode(manifest: Manifest) -> bytes:
    """The manifest as canonical JSON: keys sorted, no white space."""
    return msgspec.json.encode(manifest, order="deterministic")


def identity(encoded: bytes) -> str:
    """The golden's id: the sha256 of its encoded manifest."""
    return hashlib.sha256(encoded).hexdigest()


def decode(encoded: bytes, where: object) -> Manifest:
    """Read a manifest, strictly.

    Raises:
        GoldenError: not JSON, not a golden's, of a newer format version, or a field is wrong.
    """
    damaged = "fetch the golden again, or record it anew with generate_goldens.py"
    try:
        document = msgspec.json.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GoldenError(f"the manifest is damaged: {error}", where=where, hint=damaged) from None
    kind = document.get("format") if isinstance(document, dict) else None
    if kind != FORMAT:
        raise GoldenError(
            "this is not a golden", where=where, expected=f"format {FORMAT!r}", found=kind, hint=damaged
        )
    version = document.get("version")
    if version != FORMAT_VERSION:
        raise GoldenError(
            "this golden has a format version that this release does not read",
            where=where,
            expected=FORMAT_VERSION,
            found=version,
            hint="upgrade this package, or record the golden again with this release",
        )
    try:
        return msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise GoldenError(f"the manifest is malformed: {error}", where=where, hint=damaged) from None
