"""What a hypothesis computes where a port was looked at: of golden inputs, and at padding of the port's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from harness import along
from harness.architecture import Config
from harness.errors import HarnessError
from harness.golden import CaseEntry
from harness.mutants.batches import CaseBatch, batch_of
from harness.mutants.bench import HEAD, Bench, layer_of, left_by, stages_of
from harness.mutants.diagnosis.hypothesis import Hypothesis
from harness.mutants.diagnosis.replay import StageReplay
from harness.mutants.mutant import CallChange
from harness.run.cache import Past
from harness.run.decoder import Decoder
from harness.run.precision import in_force
from harness.run.source import GoldenSource
from harness.taps import CACHE_KINDS, Tap, kind_of

Values = Mapping[str, np.ndarray]


class Predictor:
    """Runs hypotheses on the golden inputs of a replay.

    Args:
        source: the golden, at the precision of the replays.
        checkpoint, config: what the port was loaded from.
        replaced: kinds of taps at which the port goes on with the golden. At others the mutant goes on with
            its own values, as the port does.
        arithmetic: the precision in which mutants compute; None is that of the replays.
        earlier: kinds of a cache of which the golden goes on at the slots of earlier calls alone.
    """

    def __init__(
        self,
        source: GoldenSource,
        checkpoint: Path,
        config: Config,
        replaced: frozenset[str],
        arithmetic: str | None = None,
        earlier: frozenset[str] = frozenset(),
    ) -> None:
        self.source, self.config = source, config
        self._checkpoint, self._replaced, self._earlier = checkpoint, replaced, earlier
        self._bench = Bench(source, checkpoint, config, arithmetic)
        self._last: tuple[Hypothesis, Decoder] | None = None
        self._batch = functools.cache(lambda case: batch_of(source.golden, [source.golden.manifest.case(case)]))
        self._exact: Predictor | None = None
        self.runs = 0

    def predict(self, hypothesis: Hypothesis, replay: StageReplay, until: str | None = None) -> Values | None:
        """What the hypothesis computes at the taps of a replay, by kind; None where it does not fit this model.

        A transposed matrix that is not square, say, fits nowhere: a port with that bug does not run either.
        Nothing is computed beyond the tap `until`, where that is given.
        """
        if self._last is None or self._last[0] is not hypothesis:
            try:
                self._last = (hypothesis, self._bench.decoder(hypothesis.changes))
            except HarnessError:
                return None
        self.runs += 1
        try:
            return self._run(hypothesis, self._last[1], replay, until)
        except (HarnessError, TypeError, ValueError):  # shapes that do not go together
            return None

    def exactly(self, hypothesis: Hypothesis, replay: StageReplay, until: str | None = None) -> Values | None:
        """What the hypothesis computes of the same inputs in float64; None where that is what `predict` says."""
        if self.source.precision == "float64":
            return None
        if self._exact is None:
            given = self.source, self._checkpoint, self.config, self._replaced
            self._exact = Predictor(*given, "float64", self._earlier)
        with in_force("float64"):
            return self._exact.predict(hypothesis, replay, until)

    def calls_apart(self, case: CaseEntry) -> bool:
        """Whether a call of a case can be run by itself: the golden cache goes on in front of it."""
        held = {tap.kind for tap in self.source.taps.values() if "slot" in tap.dims}
        return not case.cached or self._replaced | self._earlier >= held

    def _run(self, hypothesis: Hypothesis, decoder: Decoder, replay: StageReplay, until: str | None) -> Values:
        batch = self._batch(replay.case.name)
        calls = range(len(batch.spans)) if replay.only is None else (replay.only,)
        by_kind: dict[str, list[np.ndarray]] = {}

        def tap(call: int, name: str, value: jax.Array) -> jax.Array:
            kind = kind_of(name)
            by_kind.setdefault(kind, []).append(np.asarray(value))
            if kind == until and call == calls[-1]:
                raise _EnoughError
            replaced = kind in self._replaced and (not replay.case.partly or name in replay.case.taps)
            return self._goes_on(replay, batch, call, name, value) if replaced else value

        misled = [change for change in hypothesis.changes if isinstance(change, CallChange)]
        entering = functools.partial(self._entering, decoder, replay, batch)
        past = functools.partial(self._past, decoder, replay, batch)
        with contextlib.suppress(_EnoughError):
            given = decoder, replay.stage, batch, self._bench.parameters(decoder, replay.stage)
            after = self._bench.run(*given, entering, tap, calls=calls, past=past, misled=misled)
            if replay.stage == HEAD:
                by_kind["logits"] = [np.asarray(value) for value in after]
        spans = [batch.spans[call] for call in calls]
        taps = {kind: seen.tap for kind, seen in replay.taps.items() if len(by_kind.get(kind, ())) == len(spans)}
        values = {kind: _compared(replay.case, tap, by_kind[kind], spans) for kind, tap in taps.items()}
        largest = self.source.largest(replay.case.name, "logits") if "logits" in values else None
        if largest and replay.case.cached:
            largest = replace(largest, ids=largest.ids[:, spans[0].start : spans[-1].stop])
        return values | {"logits": largest.of(values["logits"])} if largest else values

    def _past(self, decoder: Decoder, replay: StageReplay, batch: CaseBatch, call: int, held: Past | None) -> Past:
        """The cache before a call: at first the golden one, and at padding what the port has there."""
        if held is not None and not self._earlier:
            return held
        empty = self._bench.empty_cache(decoder, batch, layer_of(replay.stage) or 0)
        filled = batch.spans[call].start
        if filled == 0:
            return empty
        buffers: dict[str, jax.Array] = {}
        for kind, buffer in empty.held.items():
            name, whole = f"{replay.stage}.{kind}", np.array(buffer)
            golden = self.source.rounded(replay.case.name, name)[:, :filled]
            whole[:, :filled] = _instead(golden, replay.before.get(kind), np.zeros_like(golden))
            buffers[kind] = self._bench.same(batch, call, f"{name} before", whole)
        return Past(buffers, empty.filled + filled)

    def _goes_on(self, replay: StageReplay, batch: CaseBatch, call: int, name: str, value: jax.Array) -> jax.Array:
        """What one call goes on with: the golden, and at padding, where there is none, what the port has there."""
        seen, own = replay.taps.get(kind_of(name)), None
        if seen is not None and seen.tap.kind not in CACHE_KINDS:  # a cache has there what k_rope and v have
            alone = replay.only is not None or not batch.cached
            own = seen.actual if alone else along.give(seen.tap, seen.actual, batch.spans[call])
        return self._bench.goes_on(batch, call, name, value, own)

    def _entering(self, decoder: Decoder, replay: StageReplay, batch: CaseBatch, call: int) -> jax.Array:
        """The golden residual stream, and 0 at padding and where it is not kept."""
        stages = stages_of(decoder.arch.layers)
        name = left_by(stages[stages.index(replay.stage) - 1])
        golden = self._bench.golden(batch, call, replay.case.name, name)
        whole = np.where(np.isnan(golden), np.zeros_like(golden), golden).astype(self._bench.dtype)
        return self._bench.same(batch, call, f"after {name}", whole)


def _instead(golden: np.ndarray, own: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    """A golden, and where it has nothing the port's own value, or what there is otherwise."""
    elsewhere = value if own is None or own.shape != golden.shape else own
    filled: np.ndarray = np.where(np.isnan(golden), elsewhere, golden)
    return filled


def _compared(case: CaseEntry, tap: Tap, values: Sequence[np.ndarray], spans: Sequence[slice]) -> np.ndarray:
    """A tap's values over all calls, at the tokens that a check compares: a cache is compared after every call."""
    if case.cached and tap.kind in CACHE_KINDS:
        held = [value[:, : span.stop] for value, span in zip(values, spans, strict=True)]
        return np.concatenate(held, tap.position_axis)
    return along.take(tap, values, case)


class _EnoughError(Exception):
    """The last tap that was wanted has been seen."""
