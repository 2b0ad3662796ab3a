"""The golden as plain data: what its manifest says. Where its arrays lie is `harness.layout`.

The manifest is canonical JSON; the sha256 of its bytes is the golden's identity. It holds nothing that
differs between two recordings of the same thing on the same machine: no time, no path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from harness.errors import GoldenError
from harness.selecting import EVERYTHING, Selected
from harness.taps import Tap

FORMAT = "goldens"
FORMAT_VERSION = 3
# That of a golden of which version 3 cannot tell what it holds: selected taps, the largest logits. A release that
# knows nothing of them refuses it by its version.
SELECTIVE_VERSION = 4
VERSIONS = (FORMAT_VERSION, SELECTIVE_VERSION)
CASE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CASE_KINDS = ("prompt", "decode", "batch", "offset", "generation")  # `harness.entries` has a class for each
NOISE_PRECISIONS = ("float32", "bfloat16")
NOISE_KINDS = ("forward", "replay")
# What is recorded of PyTorch's error at a position, over its draws: the root of the mean square, the largest (the
# root of the mean of its square), in how many numbers the error effectively is, and the variance over the draws of
# the logarithm of the mean square. See `harness.calibration`.
NOISE_STATISTICS = ("rms", "max", "numbers", "spread")
LAYER = "layer"
# A manifest is read into objects that take several times its room, so its size is bounded before it is read.
MANIFEST_LIMIT = 1 << 26
FREE_LIMIT = 1 << 20  # of a part that is free in form: the config, the environment


def statistic(name: str) -> int:
    """Where a statistic lies along the axis `statistic` of noise floors."""
    return NOISE_STATISTICS.index(name)


@dataclass(frozen=True)
class Form:
    """The form of an array: all that is known of it before its values. Little-endian, C order."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]

    @property
    def stacked(self) -> bool:
        """Whether it holds one slab for each layer, along its first dimension."""
        return len(self.dims) > 1 and (self.dims[0] == LAYER or self.dims[0].startswith(f"{LAYER}."))

    @property
    def slabs(self) -> int:
        """How many pieces it is written, hashed and read in."""
        return self.shape[0] if self.stacked else 1

    @property
    def slab(self) -> tuple[int, ...]:
        """The shape of one of them."""
        return self.shape[1:] if self.stacked else self.shape


@dataclass(frozen=True)
class ArrayEntry(Form):
    """One stored array, with the sha256 of the bytes of every slab; of an array that is no stack, there is one."""

    sha256: tuple[str, ...]

    @property
    def form(self) -> Form:
        return Form(self.shape, self.dtype, self.dims)


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
    """Phase 2 facts: sha256 of tokenizer.json, and whose published ids it gives (none known: empty)."""

    sha256: str
    published: str


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
        partly: True where the golden's selection leaves out taps that its level has.
        top: how many logits are stored at each position, the largest; unset means all.
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
    partly: bool | UnsetType = UNSET
    top: int | UnsetType = UNSET

    @property
    def complete(self) -> bool:
        """Whether every operation is recorded."""
        return self.level == "ops" and not self.partly

    @property
    def depth(self) -> str:
        """Its level, in words."""
        return f"{self.level}, partly" if self.partly else self.level

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
    """Everything about a golden except its arrays. See goldens/README.md, the format's specification.

    Attributes:
        statistics: what noise floors say, in the order of their axis `statistic`.
        sizes: of every dimension of a tap that is no matter of the case; `layers.3.head` where a layer differs.
        selected: which taps of a level are recorded, where these are not all.
    """

    format: str
    version: int
    model: ModelEntry
    tokenizer: TokenizerEntry
    corpus_sha256: str
    level: str
    truth_dtype: str
    precisions: tuple[str, ...]
    statistics: tuple[str, ...]
    sizes: dict[str, int]
    taps: tuple[Tap, ...]
    cases: tuple[CaseEntry, ...]
    environment: dict[str, Any]
    command: str
    arrays: dict[str, ArrayEntry]
    selected: Selected | UnsetType = UNSET

    @property
    def selection(self) -> Selected:
        """Which taps of a level are recorded."""
        return self.selected if isinstance(self.selected, Selected) else EVERYTHING

    def case(self, name: str) -> CaseEntry:
        """The entry of one case.

        Raises:
            GoldenError: the golden has no case of that name.
        """
        for case in self.cases:
            if case.name == name:
                return case
        problem, hint = "the golden has no case of this name", "`goldens show GOLDEN` lists its cases"
        raise GoldenError(problem, name, ", ".join(case.name for case in self.cases), name, hint=hint)


def encode(manifest: Manifest) -> bytes:
    """The manifest as canonical JSON: keys sorted, no white space."""
    return msgspec.json.encode(manifest, order="deterministic")


def identity(encoded: bytes) -> str:
    """The golden's id: the sha256 of its encoded manifest."""
    return hashlib.sha256(encoded).hexdigest()


class _ModelHead(msgspec.Struct):
    config: msgspec.Raw = msgspec.Raw(b"{}")


class _Version(msgspec.Struct):
    """What is looked at first: other fields are passed over without making anything of them."""

    format: msgspec.Raw = msgspec.Raw(b"null")
    version: msgspec.Raw = msgspec.Raw(b"null")


class _Free(msgspec.Struct):
    """The parts that are free in form."""

    environment: msgspec.Raw = msgspec.Raw(b"{}")
    model: _ModelHead | None = None


DAMAGED = "fetch the golden again, or record it anew with `goldens record`"


def decode(encoded: bytes, where: object) -> Manifest:
    """Read a manifest, strictly.

    Raises:
        GoldenError: not JSON, not a golden's, of another format version, or a field is wrong or too long.
    """
    try:
        head = msgspec.json.decode(encoded, type=_Version)
        kind, version = _value(head.format), _value(head.version)
        if kind == FORMAT and version in VERSIONS:
            free = msgspec.json.decode(encoded, type=_Free)
            config = free.model.config if free.model else b""
            for part, raw in (("environment", free.environment), ("model.config", config)):
                if len(bytes(raw)) > FREE_LIMIT:
                    raise _malformed(f"{part} is longer than {FREE_LIMIT:,} bytes", where)
            return msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(str(error), where) from None
    if kind != FORMAT:
        raise GoldenError("this is not a golden", where, f"format {FORMAT!r}", kind, hint=DAMAGED)
    problem = "this golden has a format version that this release does not read"
    hint = "upgrade this package, or record the golden again with this release"
    raise GoldenError(problem, where, " or ".join(map(str, VERSIONS)), version, hint=hint)


def _value(raw: msgspec.Raw) -> object:
    """A short JSON value, or what is wrong with it."""
    return msgspec.json.decode(raw) if len(bytes(raw)) < 100 else "something long"


def _malformed(problem: str, where: object) -> GoldenError:
    return GoldenError(f"the manifest is malformed: {problem}", where=where, hint=DAMAGED)
