"""One stage on trial (embedding, layer or head): its goldens, the right decoder's values, and each mutant's.

A value that is, bit for bit, the right decoder's is not compared again: it matches where that one does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.comparison import Place, compare
from harness.mutants.batches import Batch, Rows
from harness.mutants.criteria import figures
from harness.mutants.subject import EMBED, HEAD, Sight, Stage, Subject
from harness.run.session import GoldenSource
from harness.taps import Tap
from harness.tolerances import Limit

Values = dict[str, np.ndarray]
INFINITE = float("inf")


class StageTrial:
    """One stage at one precision.

    Args:
        layers: of the right decoder.
        clean: the right decoder, whose `hidden` is what enters the stage.

    Attributes:
        leaving: by batch, what the right decoder's forward pass makes of the stage.
    """

    def __init__(
        self,
        source: GoldenSource,
        limit: Limit,
        batches: Sequence[Batch],
        layers: int,
        stage: Stage,
        clean: Subject,
    ) -> None:
        self._source, self._limit, self._batches, self._layers = source, limit, batches, layers
        self.stage = stage
        self._truth = functools.cache(source.golden.tap)
        self._rounded = functools.cache(source.rounded)
        prefix = f"layers.{stage}" if isinstance(stage, int) else ""
        taps = [tap for tap in source.taps.values() if tap.stage == prefix]
        self._taps = {tap.name: tap for tap in taps if prefix or (tap.name == EMBED) == (stage == EMBED)}
        self._clean = clean
        self._parameters = clean.parameters(stage, None)
        self._entering = list(clean.hidden) or [None] * len(batches)
        self._right = [self._replay(clean, self._parameters, index) for index in range(len(batches))]
        self.leaving = [self._forward(clean, self._parameters, index, x) for index, x in enumerate(self._entering)]

    def observe_right(self) -> list[Sight]:
        """Every comparison of the right decoder; also fills in its `residual` and the figures of its logits."""
        sights = [
            self._sight("replay", self._taps[name], batch, rows, value)
            for batch, values in zip(self._batches, self._right, strict=True)
            for name, value in values.items()
            for rows in _replayed(batch, name)
        ]
        self._advance(self._clean)
        return sights + (list(self._logits(self._clean, self.leaving)) if self.stage == HEAD else [])

    def observe(self, one: Subject) -> None:
        """Take a mutant through the stage: what differs from the right decoder is added to its sights."""
        if not one.has(self.stage):
            one.sights += self._missing()
            return
        own = one.parameters(self.stage, self._parameters)
        touched = one.touches(self.stage, own, self._parameters, self._layers)
        if touched:
            one.sights += self.observe_replay(one, own)
        self._advance(one)
        hidden = one.hidden or [None] * len(self._batches)
        one.hidden = [
            self.leaving[i] if not touched and x is self._entering[i] else self._forward(one, own, i, x)
            for i, x in enumerate(hidden)
        ]
        if self.stage == HEAD:
            one.sights += self._logits(one, one.hidden)

    def observe_replay(self, one: Subject, own: Any = None) -> list[Sight]:
        """What differs from the right decoder on golden inputs."""
        own = one.parameters(self.stage, self._parameters) if own is None else own
        sights = []
        for index, batch in enumerate(self._batches):
            for name, value in self._replay(one, own, index).items():
                right = self._right[index].get(name)
                sights += [
                    self._sight("replay", self._taps[name], batch, rows, value)
                    for rows in _replayed(batch, name)
                    if not _equal(self._taps[name], batch, rows, value, right)
                ]
        return sights

    def _replay(self, one: Subject, parameters: Any, index: int) -> Values:
        """The values of the stage's recorded taps, each made of golden inputs."""
        batch = self._batches[index]
        if not any(rows.replayed for rows in batch.cases):
            return {}
        values: Values = {}

        def tap(name: str, value: jax.Array) -> jax.Array:
            tap = self._taps.get(name)
            if tap is None or not batch.recorded(name):
                return value
            values[name] = np.asarray(value)
            return self._golden(index, tap, values[name])

        before = None if self.stage == EMBED else self._before(index, one.residual)
        after = one.run(self.stage, batch, index, parameters, before, tap)
        if self.stage == HEAD:
            values["logits"] = np.asarray(after)
        return values

    def _golden(self, index: int, tap: Tap, value: np.ndarray) -> jax.Array:
        """A value with the goldens in its place; one of another shape goes on, and the comparison refuses it."""
        batch = self._batches[index]
        goldens = {rows.entry.name: self._rounded(rows.entry.name, tap.name) for rows in batch.recorded(tap.name)}
        fits = all(batch.cut(tap, r, value).shape == goldens[r.entry.name].shape for r in batch.recorded(tap.name))
        return jnp.asarray(batch.replace(tap, value, goldens) if fits else value)

    def _before(self, index: int, name: str) -> jax.Array:
        """The golden residual stream that enters the stage; zeros in the rows that have none."""
        batch = self._batches[index]
        hidden = next(golden for golden in batch.recorded(name)).entry.name
        width = self._rounded(hidden, name).shape[-1]
        dtype = self._rounded(hidden, name).dtype
        return self._golden(index, self._source.taps[name], np.zeros((*batch.mask.shape, width), dtype))

    def _forward(self, one: Subject, parameters: Any, index: int, x: Array | None) -> Array:
        return one.run(self.stage, self._batches[index], index, parameters, x, lambda name, value: value)

    def _logits(self, one: Subject, logits: Sequence[Array]) -> Iterator[Sight]:
        """Compare the logits of the forward pass, and keep the figures that the usual criteria look at."""
        tap = self._source.taps["logits"]
        for index, batch in enumerate(self._batches):
            value, right = np.asarray(logits[index]), np.asarray(self.leaving[index])
            for rows in batch.cases:
                name = rows.entry.name
                if one is not self._clean and _equal(tap, batch, rows, value, right):
                    one.logits[name] = self._clean.logits[name]
                    continue
                sight = self._sight("forward", tap, batch, rows, value)
                if sight.verdict not in ("shape", "dtype"):
                    one.logits[name] = figures(batch.cut(tap, rows, value), self._truth(name, tap.name))
                yield sight

    def _sight(self, mode: str, tap: Tap, batch: Batch, rows: Rows, value: np.ndarray) -> Sight:
        entry = rows.entry
        result = compare(
            Place(entry.name, self._source.precision, mode, tap),
            batch.cut(tap, rows, value),
            self._truth(entry.name, tap.name),
            self._source.noise(entry, mode, tap.name),
            self._limit,
            self._source.precision,
        )
        rms, largest = (INFINITE if x is None else x for x in (result.rms_multiple, result.max_multiple))
        margin = max(rms / self._limit.rms, largest / self._limit.max)
        return Sight(entry.name, entry.level, mode, tap.name, result.verdict, margin, rms)

    def _missing(self) -> list[Sight]:
        """Every tap of a stage that a mutant does not compute."""
        return [
            Sight(rows.entry.name, rows.entry.level, mode, name, "missing", INFINITE, INFINITE)
            for batch in self._batches
            for name in self._taps
            for rows in batch.recorded(name)
            for mode in ("forward", "replay")
        ]

    def _advance(self, one: Subject) -> None:
        if isinstance(self.stage, int):
            one.residual = f"layers.{self.stage}.resid_post"


def _replayed(batch: Batch, name: str) -> Iterator[Rows]:
    return (rows for rows in batch.recorded(name) if rows.replayed)


def _equal(tap: Tap, batch: Batch, rows: Rows, value: np.ndarray, right: np.ndarray | None) -> bool:
    if right is None or value.shape != right.shape or value.dtype != right.dtype:
        return False
    return batch.cut(tap, rows, value).tobytes() == batch.cut(tap, rows, right).tobytes()
