"""Cases side by side in few arrays, padded on the right, so that a mutant is run once and not once per case.

What padding could change is kept from it: see `at_exact_lengths`. A case with a KV cache is a batch of its own, in
several calls. The right decoder goes through the same batches, and an audit is refused where it does not pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Num

from harness import along
from harness.golden import CaseEntry
from harness.run.operations import Operations
from harness.run.passes import filled
from harness.store import Golden
from harness.taps import Tap

# Cases of up to this many tokens share a batch; beyond, a batch holds lengths up to a factor of 2.
SHORT = 64
EMBED = "embed"


@dataclass(frozen=True)
class Rows:
    """Where one case lies in its batch: rows `start` to `stop`, the first `length` positions."""

    entry: CaseEntry
    start: int
    stop: int
    length: int

    @property
    def replayed(self) -> bool:
        """Whether more than the logits is recorded, so that every stage has golden inputs."""
        return EMBED in self.entry.taps and not self.entry.partly


@dataclass(frozen=True, eq=False)
class CaseBatch:
    """Cases padded to one length.

    Attributes:
        lengths: of each row, before it was padded.
        spans: the tokens of each call; one call of all tokens where there is no cache.
        cached: whether calls go through a KV cache.
    """

    cases: tuple[Rows, ...]
    input_ids: Int[np.ndarray, "batch position"]
    positions: Int[np.ndarray, "batch position"]
    mask: Bool[np.ndarray, "batch position"]
    lengths: tuple[int, ...]
    spans: tuple[slice, ...]
    cached: bool = False

    @functools.cached_property
    def inputs(self) -> Callable[[int], tuple[Array, Array, Array]]:
        """By call, token ids and positions, and the mask: of all slots that a cache has by then.

        They are on the device once for all mutants.
        """
        return functools.cache(self._inputs)

    def _inputs(self, call: int) -> tuple[Array, Array, Array]:
        span = self.spans[call]
        ids, positions = (jax.device_put(array[:, span]) for array in (self.input_ids, self.positions))
        return ids, positions, filled(self.mask, span) if self.cached else jax.device_put(self.mask)

    def recorded(self, tap: str) -> tuple[Rows, ...]:
        """The cases that were recorded with a tap."""
        return tuple(rows for rows in self.cases if tap in rows.entry.taps)

    def replace(
        self, tap: Tap, value: Num[np.ndarray, "..."], goldens: Mapping[str, Num[np.ndarray, "..."]]
    ) -> Num[np.ndarray, "..."]:
        """A tap's value in one call with the goldens of the cases that have one, by name, in their places.

        Where a golden is NaN nothing is recorded, and the value stays.
        """
        replaced = np.array(value)
        for rows in self.recorded(tap.name):
            golden = goldens[rows.entry.name]
            np.copyto(self.cut(tap, rows, replaced), golden.astype(value.dtype), where=~np.isnan(golden))
        return replaced

    def cut(self, tap: Tap, rows: Rows, array: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        """One case's part of a tap, a view; an array of another rank is left whole, for a comparison to refuse."""
        if array.ndim != len(tap.dims) or self.cached:
            return array
        return along.cut(tap.dims, array[rows.start : rows.stop], rows.length)


def batches(golden: Golden, cases: Sequence[CaseEntry]) -> tuple[CaseBatch, ...]:
    """All cases, grouped by length; those with a cache one by one."""
    groups: dict[int | str, list[CaseEntry]] = {}
    for entry in cases:
        length = entry.shape[1]
        together = SHORT if length <= SHORT else 1 << (length - 1).bit_length()
        groups.setdefault(entry.name if entry.cached else together, []).append(entry)
    return tuple(batch_of(golden, group) for group in groups.values())


def batch_of(golden: Golden, entries: Sequence[CaseEntry]) -> CaseBatch:
    """These cases in one batch."""
    inputs = [golden.case(entry.name) for entry in entries]
    width, cached = max(entry.shape[1] for entry in entries), entries[0].cached

    def joined(arrays: Iterable[np.ndarray], dtype: str) -> np.ndarray:
        return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in arrays]).astype(dtype)

    starts = np.cumsum([0, *(entry.shape[0] for entry in entries)]).tolist()
    return CaseBatch(
        cases=tuple(
            Rows(entry, start, start + entry.shape[0], entry.shape[1])
            for entry, start in zip(entries, starts, strict=False)
        ),
        input_ids=joined([case.input_ids for case in inputs], "int32"),
        positions=joined([case.positions for case in inputs], "int32"),
        mask=joined([case.mask for case in inputs], "bool"),
        lengths=tuple(length for entry in entries for length in (entry.shape[1],) * entry.shape[0]),
        spans=tuple(inputs[0].spans) if cached else (slice(0, width),),
        cached=cached,
    )


def at_exact_lengths(operations: Operations, lengths: Sequence[int] | None) -> Operations:
    """The same operations, with mask and softmax computed over as many keys as a row has, for rows of one length.

    Mask and softmax alone would see how a batch is padded. A wrong mask lets a query see keys that it should not
    see, and with them the padding that only this machinery has put there: a single token would then show a bug
    that no port can show on a single token.

    Args:
        operations: `allowed` and `probabilities` are the ones that are wrapped.
        lengths: of the rows of the batch that the operations will be given; None leaves them as they are.
    """
    if lengths is None:
        return operations

    def probabilities(scores: Array, deferred: tuple[Array, Array], *sinks: Array) -> Array:
        (mask, window), given, whole = deferred, np.asarray(scores), np.zeros(scores.shape, scores.dtype)
        for length in dict.fromkeys(lengths):
            rows = [row for row, own in enumerate(lengths) if own == length]
            slots = np.arange(length, dtype=np.int32)
            seen = operations.allowed(jax.device_put(np.asarray(mask)[rows, :length]), slots, window)
            part = jax.device_put(given[rows, :, :length, :length])
            whole[rows, :, :length, :length] = np.asarray(operations.probabilities(part, seen, *sinks))
        return jax.device_put(whole)

    def deferred(mask: Array, slots: Array, window: Array) -> tuple[Array, Array]:
        return mask, window

    return replace(operations, allowed=deferred, probabilities=probabilities)
