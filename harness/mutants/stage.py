"""One stage on trial (embedding, layer or head): its goldens, the right decoder's values, and each mutant's.

A value that is, bit for bit, the right decoder's is not compared again: it matches where that one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from harness import along
from harness.mutants.batches import CaseBatch, Rows
from harness.mutants.bench import EMBED, HEAD, Bench, layer_of, left_by
from harness.mutants.criteria import figures_of
from harness.mutants.mutant import CallChange, OperationChange, WeightChange
from harness.mutants.runs import INFINITE, Deviation, MutantRun, deviation
from harness.results import TapResult
from harness.run.choices import pins
from harness.run.comparing import Comparing, Judgement, compared, refusal
from harness.run.port import Declarations
from harness.taps import OPTIONAL, PINNED, Tap
from harness.tolerances import Limit

Calls = list[Array]  # the values of a tap, or what leaves a stage, by call
OF_EMBED = frozenset({"embed", "embed_scale", "add_positions"})
OF_HEAD = frozenset({"final_norm", "head", "logit_scale", "logit_cap"})
# Nothing that a golden may have or not is asked of a decoder whose operations run one by one.
PLAIN = Declarations(without=tuple(OPTIONAL))


class _Right(NamedTuple):
    """A right decoder at the stage.

    Attributes:
        entering, leaving: by batch and call, its forward pass.
        replayed: by batch, its values on golden inputs.
    """

    run: MutantRun
    entering: list[Calls]
    leaving: list[Calls]
    replayed: list[dict[str, Calls]]


class StageTrial:
    """One stage at one precision.

    Args:
        right: the right decoder, and where masks are computed at exact lengths for some mutants, the one that does
            so; their `hidden` is what enters the stage.
    """

    def __init__(
        self, bench: Bench, limit: Limit, batches: Sequence[CaseBatch], stage: str, right: Sequence[MutantRun]
    ) -> None:
        self._bench, self._source, self._limit, self._batches = bench, bench.source, limit, batches
        self.stage = stage
        bench.forget()
        self._source.forget()
        own = "" if layer_of(stage) is None else stage
        taps = [tap for tap in self._source.taps.values() if tap.stage == own]
        self._taps = {t.name: t for t in taps if t.stage or (t.name == EMBED) == (stage == EMBED)}
        self._pins = pins(self._source, PLAIN)
        self._parameters = bench.parameters(right[0].decoders[0], stage)
        self._comparing = cache(lambda entry, mode: Comparing(self._source, entry, mode, Judgement(limit, PLAIN)))
        self._entering = right[0].hidden or [[] for _ in batches]
        self._right = {run.exact: self._of_right(run) for run in right}

    def _of_right(self, run: MutantRun) -> _Right:
        entering, given = run.hidden or self._entering, (run, self._parameters)
        leaving = [self._forward(*given, index, x) for index, x in enumerate(entering)]
        return _Right(run, entering, leaving, [self._replay(*given, index) for index in range(len(leaving))])

    def observe_right(self) -> list[Deviation]:
        """Every comparison of the right decoder, and of the one with exact masks what differs from it."""
        made: list[Deviation] = []
        for exact, right in self._right.items():
            plain = self._right[False] if exact else None
            made += self._differing(right.replayed, plain)
            if self.stage == HEAD:
                made += self._logits(right.run, right.leaving, plain)
            self._left(right.run, right.leaving)
        return made

    def observe(self, run: MutantRun) -> None:
        """Take a mutant through the stage: what differs from the right decoder is added to its deviations."""
        index, right = layer_of(self.stage), self._right[run.exact]
        if index is not None and index >= run.decoders[0].arch.layers:  # it has fewer
            run.deviations += self._missing()
            return
        own = self._bench.parameters(run.decoders[0], self.stage)
        touched = self._touches(run, own)
        if touched:
            run.deviations += self.observe_replay(run, own)
        leaving = [
            right.leaving[i] if not touched and _identical(x, right.entering[i]) else self._forward(run, own, i, x)
            for i, x in enumerate(run.hidden or right.entering)
        ]
        self._left(run, leaving)
        if self.stage == HEAD:
            run.deviations += self._logits(run, leaving, right)

    def observe_replay(self, run: MutantRun, own: Any = None) -> list[Deviation]:
        """What differs from the right decoder on golden inputs."""
        own = self._bench.parameters(run.decoders[0], self.stage) if own is None else own
        values = [self._replay(run, own, index) for index in range(len(self._batches))]
        return self._differing(values, self._right[run.exact])

    def _differing(self, replayed: Sequence[dict[str, Calls]], right: _Right | None) -> list[Deviation]:
        """The comparisons of what is not the right decoder's; None: of everything. Tap by tap within a batch."""
        made: list[Deviation] = []
        for index, (batch, by_tap) in enumerate(zip(self._batches, replayed, strict=True)):
            theirs, order, in_batch = right.replayed[index] if right else {}, list(by_tap), list[Deviation]()
            for rows in (rows for rows in batch.cases if rows.replayed):
                recorded = {name: values for name, values in by_tap.items() if name in rows.entry.taps}
                changed = {
                    name: values
                    for name, values in recorded.items()
                    if not _equal(self._taps[name], batch, rows, values, theirs.get(name, []))
                }
                in_batch += [
                    deviation(result, rows.entry) for result in self._results("replay", batch, rows, changed)
                ]
            made += sorted(in_batch, key=lambda seen: order.index(seen.tap))
        return made

    def _left(self, run: MutantRun, leaving: list[Calls]) -> None:
        run.hidden = leaving
        if layer_of(self.stage) is not None:
            run.residual = left_by(self.stage)

    def _touches(self, run: MutantRun, own: Any) -> bool:
        """Whether the stage can differ from the right decoder's: other operations, parameters or config."""
        index, change = layer_of(self.stage), run.mutant.change
        if isinstance(change, OperationChange):
            replaced = set(change.replaced)
            if index is None:
                return bool(replaced & (OF_EMBED if self.stage == EMBED else OF_HEAD))
            return bool(replaced - OF_EMBED - OF_HEAD) and index in run.mutant.in_layers(self._bench.arch.layers)
        both = jax.tree.leaves(own), jax.tree.leaves(self._parameters)
        return not isinstance(change, WeightChange) or not _identical(*both)

    def _replay(self, run: MutantRun, parameters: Any, index: int) -> dict[str, Calls]:
        """The values of the stage's recorded taps, each made of golden inputs, by call."""
        batch, values = self._batches[index], dict[str, Calls]()
        if not any(rows.replayed for rows in batch.cases):
            return {}

        def entering(call: int) -> Array:
            # At padding nothing is recorded. It is the same for all mutants, but for those that may see it.
            own = (run.exact and run.hidden) or self._entering
            return self._bench.goes_on(batch, call, run.residual, own[index][call])

        def tap(call: int, name: str, value: Array) -> Array:
            if name not in self._taps or not batch.recorded(name):
                return value
            values.setdefault(name, []).append(value)
            return self._bench.goes_on(batch, call, name, value)

        given = run.decoders[index], self.stage, batch, parameters
        after = self._bench.run(*given, entering, tap, misled=_misled(run))
        return {**values, "logits": after} if self.stage == HEAD else values

    def _forward(self, run: MutantRun, parameters: Any, index: int, x: Calls) -> Calls:
        batch = self._batches[index]

        def tap(call: int, name: str, value: Array) -> Array:
            chosen = self._pins and name in self._taps and self._taps[name].kind in PINNED
            return self._bench.pinned(batch, call, name, value) if chosen else value

        given = run.decoders[index], self.stage, batch, parameters
        return self._bench.run(*given, x.__getitem__, tap, misled=_misled(run), remember=False)

    def _logits(self, run: MutantRun, logits: Sequence[Calls], right: _Right | None) -> Iterator[Deviation]:
        """Compare the logits of the forward pass, and keep the figures that the usual criteria look at.

        Args:
            right: what they are compared with first; None is nothing.
        """
        tap = self._source.taps["logits"]
        for index, (batch, values) in enumerate(zip(self._batches, logits, strict=True)):
            for rows in batch.cases:
                name = rows.entry.name
                if right is not None and _equal(tap, batch, rows, values, right.leaving[index]):
                    if name in right.run.logits:
                        run.logits[name] = right.run.logits[name]
                    continue
                [result] = self._results("forward", batch, rows, {tap.name: values})
                figures = figures_of(result)
                if figures is not None:
                    run.logits[name] = figures
                yield deviation(result, rows.entry)

    def _results(self, mode: str, batch: CaseBatch, rows: Rows, values: Mapping[str, Calls]) -> list[TapResult]:
        """The comparisons of a case's taps with the golden, of those that came in every call."""
        by = self._comparing(rows.entry, mode)
        results = []
        for name, calls in values.items():
            if name in by.wanted and name not in by.silent and len(calls) == len(by.spans):
                tap = by.wanted[name]
                own = [batch.cut(tap, rows, np.asarray(value)) for value in calls]
                results.append(refusal(by, tap, own) or compared(by, tap, own, along.take(tap, own, by.case)))
        return results

    def _missing(self) -> list[Deviation]:
        """Every tap of a stage that a mutant does not compute."""
        return [
            Deviation(rows.entry.name, rows.entry.complete, mode, name, "missing", INFINITE, INFINITE)
            for batch in self._batches
            for name in self._taps
            for rows in batch.recorded(name)
            for mode in ("forward", "replay")
        ]


def _misled(run: MutantRun) -> tuple[CallChange, ...]:
    return (run.mutant.change,) if isinstance(run.mutant.change, CallChange) else ()


def _identical(some: Sequence[Array], others: Sequence[Array]) -> bool:
    """Whether they are the same objects."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _equal(tap: Tap, batch: CaseBatch, rows: Rows, values: Calls, right: Calls) -> bool:
    """Whether a case's values are the right decoder's, bit for bit, in all calls."""
    if len(values) != len(right):
        return False
    for own, expected in zip(values, right, strict=True):
        if own is expected:
            continue
        if own.shape != expected.shape or own.dtype != expected.dtype:
            return False
        mine, theirs = (batch.cut(tap, rows, np.asarray(value)) for value in (own, expected))
        if mine.tobytes() != theirs.tobytes():
            return False
    return True
