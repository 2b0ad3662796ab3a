"""One stage on trial (embedding, layer or head): its goldens, the right decoder's values, and each mutant's.

A value that is, bit for bit, the right decoder's is not compared again: it matches where that one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from harness.mutants.batches import Batch, Rows
from harness.mutants.criteria import LogitFigures, figures, figures_of
from harness.mutants.subject import EMBED, HEAD, INFINITE, Sight, Stage, Subject, sight_of
from harness.results import TapResult
from harness.run.choices import pins
from harness.run.judgement import Judgement
from harness.run.port import Declarations
from harness.run.session import CaseSession
from harness.run.source import GoldenSource
from harness.run.tapping import pinned
from harness.taps import OPTIONAL, PINNED, Tap
from harness.tolerances import Limit

Values = dict[str, np.ndarray]
# Nothing that a golden may have or not is asked of a decoder whose operations run one by one.
PLAIN = Declarations(without=tuple(OPTIONAL))


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
        source.forget()
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

        before = None if self.stage == EMBED else self._before(one, index)
        after = one.run(self.stage, batch, index, parameters, before, tap)
        if self.stage == HEAD:
            values["logits"] = np.asarray(after)
        return values

    def _golden(self, index: int, tap: Tap, value: np.ndarray) -> jax.Array:
        """A value with the goldens in its place; one of another shape goes on, and the comparison refuses it."""
        batch = self._batches[index]
        goldens = {
            rows.entry.name: self._source.rounded(rows.entry.name, tap.name) for rows in batch.recorded(tap.name)
        }
        fits = all(batch.cut(tap, r, value).shape == goldens[r.entry.name].shape for r in batch.recorded(tap.name))
        return jax.device_put(batch.replace(tap, value, goldens) if fits else value)

    def _before(self, one: Subject, index: int) -> jax.Array:
        """The golden residual stream that enters the stage; the mutant's own where none is recorded."""
        own = np.asarray((one.hidden or self._entering)[index])
        return self._golden(index, self._source.taps[one.residual], own)

    def _forward(self, one: Subject, parameters: Any, index: int, x: Array | None) -> Array:
        def tap(name: str, value: jax.Array) -> jax.Array:
            tap = self._taps.get(name)
            if tap is None or tap.kind not in PINNED or not pins(self._source, PLAIN):
                return value
            # A token that goes to other experts than in the golden: see `harness.run.tapping`.
            return pinned(name, np.asarray(self._golden(index, tap, np.asarray(value))), value)

        return one.run(self.stage, self._batches[index], index, parameters, x, tap)

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
                result = self._result("forward", tap, batch, rows, value)
                if result.verdict not in ("shape", "dtype"):
                    of_largest = figures_of(result) if rows.entry.top else None
                    one.logits[name] = of_largest or self._figures(batch, rows, value)
                yield sight_of(result, rows.entry)

    def _figures(self, batch: Batch, rows: Rows, value: np.ndarray) -> LogitFigures:
        """Of the tokens that are compared."""
        tap, name = self._source.taps["logits"], rows.entry.name
        scope = self._source.scope(name)
        actual = batch.cut(tap, rows, value)[:, scope.positions]
        return figures(actual[scope.counted], self._source.truth(name, tap.name)[scope.counted])

    def _sight(self, mode: str, tap: Tap, batch: Batch, rows: Rows, value: np.ndarray) -> Sight:
        return sight_of(self._result(mode, tap, batch, rows, value), rows.entry)

    def _result(self, mode: str, tap: Tap, batch: Batch, rows: Rows, value: np.ndarray) -> TapResult:
        entry = rows.entry
        results: list[TapResult] = []
        session = CaseSession(self._source, entry, mode, Judgement(self._limit, PLAIN, results.append))
        session.absorb(tap.stage, {tap.kind: batch.cut(tap, rows, value)})
        [result] = results
        return result

    def _missing(self) -> list[Sight]:
        """Every tap of a stage that a mutant does not compute."""
        return [
            Sight(rows.entry.name, rows.entry.complete, mode, name, "missing", INFINITE, INFINITE)
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
