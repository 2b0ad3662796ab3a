"""How a tap lies along the tokens of a case: padding, calls, kept positions, caches, rows.

On the way in, `give` makes of a golden what one call of a port sees; on the way out, `take` makes of the values
of all calls what is compared. A tap has the dimensions `position` (the tokens of a call), `key` (what attention
reads) and `slot` (of a cache); what has none of them is left as it is. Plain data: no port and no precision.

A case is what comes of an entry of a corpus: token ids, positions and a mask, and the calls in which the model
gets them. A prompt is one call; a decode is one call per chunk of its prefill and one per step, with a KV cache
carried from call to call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Num

from harness.errors import CorpusError
from harness.golden import CaseEntry
from harness.taps import CACHE_KINDS, Tap

PADDED_DIMS = ("position", "key")
Values = Num[np.ndarray, "..."]
Index = tuple[slice, ...]
ANOTHER_TOKENIZER = "the tokenizer does not belong to this checkpoint: use the one that ships with it"


@dataclass(frozen=True, eq=False)
class Case:
    """One corpus entry as the model sees it.

    Attributes:
        input_ids: token ids, int32 [batch, position].
        positions: position of every token, int32 [batch, position].
        mask: False where a token is padding, bool [batch, position].
        calls: how many of these tokens each forward pass gets, in order; empty means all in one.
    """

    name: str
    input_ids: Int[np.ndarray, "batch position"]
    positions: Int[np.ndarray, "batch position"]
    mask: Bool[np.ndarray, "batch position"]
    calls: tuple[int, ...] = ()

    @property
    def batch(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def spans(self) -> tuple[slice, ...]:
        """The tokens of each call."""
        return spans_of(self.calls or (self.length,))


def spans_of(calls: Sequence[int]) -> tuple[slice, ...]:
    """Consecutive slices of these lengths."""
    stops = np.cumsum(calls).tolist()
    return tuple(slice(stop - length, stop) for stop, length in zip(stops, calls, strict=True))


def prompt_case(name: str, ids: Sequence[int]) -> Case:
    """The case of a single unpadded prompt: positions from 0, nothing masked."""
    input_ids = np.asarray([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    return Case(name, input_ids, positions, np.ones_like(input_ids, bool))


def check_vocabulary(case: Case, vocab: int) -> None:
    """Refuse ids outside the embedding table: JAX would clamp them silently.

    Raises:
        CorpusError: an id below 0 or not below `vocab`.
    """
    outside = np.argwhere((case.input_ids < 0) | (case.input_ids >= vocab))
    if len(outside):
        row, position = outside[0]
        where, found = f"case {case.name}, row {row}, position {position}", int(case.input_ids[row, position])
        problem, expected = "a token id is outside the vocabulary", f"0 to {vocab - 1}"
        raise CorpusError(problem, where=where, expected=expected, found=found, hint=ANOTHER_TOKENIZER)


@dataclass(frozen=True, eq=False)
class Scope:
    """Which tokens a comparison is about.

    Attributes:
        counted: False at padding, which is not compared.
        positions: which of the case's tokens they are.
        calls: how many of them each forward pass got; empty means all in one.
    """

    counted: Bool[np.ndarray, "batch position"]
    positions: Int[np.ndarray, " position"]
    calls: tuple[int, ...] = ()

    @classmethod
    def whole(cls, batch: int, length: int) -> Scope:
        """All tokens, none of them padding."""
        return cls(np.ones((batch, length), bool), np.arange(length))

    @cached_property
    def all_counted(self) -> bool:
        """Whether there is no padding."""
        return bool(self.counted.all())

    def first_call(self, wrong: Bool[np.ndarray, "batch position"]) -> int | None:
        """The first call that got a token that is wrong; None where none is, or where there was one call."""
        tokens = np.flatnonzero((wrong & self.counted).any(axis=0))
        if not self.calls or not len(tokens):
            return None
        return int(np.searchsorted(np.cumsum(self.calls), tokens[0], side="right"))


def give(tap: Tap, golden: Values, span: slice) -> Values:
    """What one call sees of a case's golden: its own tokens; a cache up to them, and NaN in the slots after them.

    Goldens have one shape in all calls of one length, so that one compilation serves every step: a cache, and the
    keys of `probs`, are as long as at the end.
    """
    if tap.kind in CACHE_KINDS:
        filled = golden.copy()
        filled[:, span.stop :] = np.nan  # [B, slot, ...]
        return filled
    return golden[tuple(span if dim == "position" else slice(None) for dim in tap.dims)]


def take(tap: Tap, values: Sequence[Values], case: CaseEntry) -> Values:
    """The values of all calls along the case's tokens, of one call at the kept ones; of a cache the last.

    Probabilities have the case's keys: what a call gives to a slot that no token fills is counted at its last key,
    where it is an error, since it belongs to nobody.
    """
    length = case.shape[1]
    if not case.cached:
        return at_kept(tap, values[0], length, case.kept)
    if tap.kind in CACHE_KINDS:
        return values[-1][:, :length]
    if "key" in tap.dims:
        values = [_with_keys(value, length) for value in values]
    return np.concatenate(list(values), axis=tap.position_axis)


def _with_keys(probs: Values, length: int) -> Values:
    keys = probs.shape[-1]
    if keys <= length:
        return np.pad(probs, [(0, 0)] * (probs.ndim - 1) + [(0, length - keys)])
    cut_off = probs[..., :length].copy()
    cut_off[..., -1] += probs[..., length:].sum(axis=-1, dtype=probs.dtype)
    return cut_off


def misshapen(tap: Tap, values: Sequence[Values], spans: Sequence[slice], shape: Sequence[int]) -> str | None:
    """What is wrong with the shapes of a tap's values, if anything: call by call, cache and keys may be longer."""
    growing = {axis for axis, dim in enumerate(tap.dims) if dim in ("slot", "key")}
    for call, (value, span) in enumerate(zip(values, spans, strict=True)):
        expected = list(shape)
        if "position" in tap.dims:
            expected[tap.dims.index("position")] = span.stop - span.start
        if len(value.shape) == len(expected):
            for axis in growing:
                expected[axis] = max(span.stop, value.shape[axis])
        if value.shape != tuple(expected):
            return f"{tuple(value.shape)} in call {call}"
    return None


def filled(dims: Sequence[str], span: slice) -> Index:
    """Where one call's part of a tap lies: its own tokens, and of slots and keys what is filled after it."""
    places = {"position": span, "slot": slice(span.stop), "key": slice(span.stop)}
    return tuple(places.get(dim, slice(None)) for dim in dims)


def cut(dims: Sequence[str], value: Values, length: int) -> Values:
    """A view of a padded value's real tokens; one of another rank is left, for a comparison to refuse."""
    if value.ndim != len(dims):
        return value
    return value[tuple(slice(length if dim in PADDED_DIMS else None) for dim in dims)]


def widths(dims: Sequence[str], more: int) -> list[tuple[int, int]]:
    """How much a value grows on the right where its tokens are padded, as `np.pad` takes it."""
    return [(0, more if dim in PADDED_DIMS else 0) for dim in dims]


def at_kept(tap: Tap, value: Values, length: int, kept: Sequence[int]) -> Values:
    """A value at the kept positions, where only some are; one that has not all positions is left as it is."""
    axis = tap.position_axis
    if not kept or value.ndim != len(tap.dims) or value.shape[axis] != length:
        return value
    return value.take(kept, axis)


def spread(tap: Tap, value: Values, length: int, kept: Sequence[int]) -> Values:
    """A value of the kept positions along all of them, and NaN between."""
    axis = tap.position_axis
    shape = [*value.shape]
    shape[axis] = length
    everywhere = np.full(shape, np.nan, value.dtype)
    np.moveaxis(everywhere, axis, 0)[list(kept)] = np.moveaxis(value, axis, 0)
    return everywhere


def without_padding(tap: Tap, value: Values, real: Bool[np.ndarray, "batch position"]) -> Values:
    """A value with NaN at padding."""
    axis = tap.position_axis
    shape = [size if at in (0, axis) else 1 for at, size in enumerate(value.shape)]  # [B, S] among ones
    return np.where(real.reshape(shape), value, np.array(np.nan, value.dtype))


def in_rows(
    tap: Tap, rows: Iterable[tuple[int, Values, Sequence[int] | np.ndarray]], batch: int, length: int
) -> Values:
    """Values of single prompts laid out as the rows of a batch, in float64; 0 at padding and in other rows.

    Args:
        rows: row, value without the batch's dimension, and where its tokens are.
    """
    laid = [*rows]
    sizes = dict(zip(tap.dims[1:], laid[0][1].shape, strict=True)) | dict.fromkeys(PADDED_DIMS, length)
    joined = np.zeros((batch, *(sizes[dim] for dim in tap.dims[1:])))
    for row, value, tokens in laid:
        places = [tokens if dim in PADDED_DIMS else np.arange(sizes[dim]) for dim in tap.dims[1:]]
        joined[row][np.ix_(*places)] = value
    return joined
