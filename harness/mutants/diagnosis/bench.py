"""Mutants on golden inputs, one stage at a time, operation by operation and without a compilation of their own.

The decoder's stages run eagerly here: JAX keeps the compiled primitives, so that after the first mutant another
one takes a hundredth of a second.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Num

from harness.architecture import Config, architecture_of
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.errors import HarnessError
from harness.golden import CaseEntry
from harness.mutants.diagnosis.candidate import Candidate, build
from harness.mutants.diagnosis.remembered import remembering
from harness.mutants.diagnosis.scene import EMBED, HEAD, Scene, layer_of
from harness.mutants.mutant import CallChange, Change, OperationChange
from harness.run.arithmetic import one_by_one_of
from harness.run.cache import Cache, Past
from harness.run.calls import joined, part
from harness.run.decoder import Decoder
from harness.run.port import Call
from harness.run.precision import in_force, jax_dtype
from harness.run.recent import Recent
from harness.run.sequences import filled
from harness.run.source import GoldenSource
from harness.taps import CACHE_KINDS, Tap, kind_of

KEPT_BYTES = 256 * 2**20  # two layers of a 0.5B in bfloat16, or all of a small model
SpanTap = Callable[[slice, str, jax.Array], jax.Array]


class _Kept(Checkpoint):
    """A checkpoint whose latest parameters are kept: most candidates read the same few, one after the other."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._recent = Recent(super().read, KEPT_BYTES)

    def read(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        value = self._recent(name)
        value.flags.writeable = False  # it is shared
        return value[rows]


class Bench:
    """Runs candidates on the golden inputs of a scene.

    Args:
        source: the golden, at the precision of the scenes.
        checkpoint, config: what the port was loaded from.
        replaced: kinds of taps at which the port goes on with the golden. At others the mutant goes on with
            its own values, as the port does.
        earlier: kinds of a cache of which the golden goes on at the slots of earlier calls alone.
        arithmetic: the precision in which mutants compute; None is that of the scenes.
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
        self.source, self.config, self._replaced, self._earlier = source, config, replaced, earlier
        self._checkpoint = open_checkpoint(checkpoint, config, _Kept)
        self._dtype = jax_dtype(arithmetic or source.precision)
        self._last: tuple[Candidate, Decoder] | None = None
        self._parameters: dict[str, Any] = {}
        self._handed: dict[tuple[str, str, int, int], tuple[np.ndarray, jax.Array]] = {}
        self._operations = remembering(one_by_one_of(architecture_of(config)), KEPT_BYTES)
        self._case = functools.cache(source.golden.case)
        self._exact: Bench | None = None
        self.runs = 0

    def predict(
        self, candidate: Candidate, scene: Scene, until: str | None = None
    ) -> Mapping[str, np.ndarray] | None:
        """What the candidate computes at the taps of a scene, by kind; None where it does not fit this model.

        A transposed matrix that is not square, say, fits nowhere: a port with that bug does not run either.
        Nothing is computed beyond the tap `until`, where that is given.
        """
        if self._last is None or self._last[0] is not candidate:
            try:
                self._last = (candidate, self._decoder(candidate.changes))
            except HarnessError:
                return None
        self.runs += 1
        try:
            return self._run(candidate, self._last[1], scene, until)
        except (HarnessError, TypeError, ValueError):  # shapes that do not go together
            return None

    def exactly(
        self, candidate: Candidate, scene: Scene, until: str | None = None
    ) -> Mapping[str, np.ndarray] | None:
        """What the candidate computes of the same inputs in float64; None where that is what `predict` says."""
        if self.source.precision == "float64":
            return None
        if self._exact is None:
            self._exact = Bench(
                self.source, self._checkpoint.directory, self.config, self._replaced, "float64", self._earlier
            )
        with in_force("float64"):
            return self._exact.predict(candidate, scene, until)

    def _decoder(self, changes: Sequence[Change]) -> Decoder:
        return build(changes, self._checkpoint, self.config, self._dtype, self._operations)

    def _run(
        self, candidate: Candidate, decoder: Decoder, scene: Scene, until: str | None
    ) -> Mapping[str, np.ndarray]:
        spans = self._spans(scene)
        found: dict[str, list[np.ndarray]] = {}

        def tap(span: slice, name: str, value: jax.Array) -> jax.Array:
            kind = kind_of(name)
            seen = np.asarray(value)
            found.setdefault(kind, []).append(seen)
            if kind == until and span == spans[-1]:
                raise _EnoughError
            replaced = kind in self._replaced and (not scene.case.partly or name in scene.case.taps)
            return self._goes_on(scene, name, span, seen) if replaced else value

        with contextlib.suppress(_EnoughError):
            logits = self._stage(candidate, decoder, scene, tap)
            if scene.stage == HEAD:
                found["logits"] = [np.asarray(value) for value in logits]
        taps = {kind: seen.tap for kind, seen in scene.taps.items() if len(found.get(kind, ())) == len(spans)}
        values = {kind: _compared(scene.case, tap, found[kind], spans) for kind, tap in taps.items()}
        largest = self.source.largest(scene.case.name, "logits") if "logits" in values else None
        if largest and scene.case.cached:
            largest = replace(largest, ids=largest.ids[:, spans[0].start : spans[-1].stop])
        return values | {"logits": largest.of(values["logits"])} if largest else values

    def _spans(self, scene: Scene) -> Sequence[slice]:
        """The tokens of the scene's calls."""
        spans = self._case(scene.case.name).spans
        return spans if scene.only is None else spans[scene.only : scene.only + 1]

    def _stage(self, candidate: Candidate, decoder: Decoder, scene: Scene, tap: SpanTap) -> list[jax.Array]:
        """Run the stage's function on golden inputs, call by call; the logits, where it is the head."""
        case, index = self._case(scene.case.name), layer_of(scene.stage)
        read = functools.partial(self._read, candidate, scene.stage)
        ids, positions = (jax.device_put(one.astype(np.int32)) for one in (case.input_ids, case.positions))
        misleading = [change for change in candidate.changes if isinstance(change, CallChange)]
        spans = self._spans(scene)
        past = self._past(scene, decoder, index, spans[0]) if scene.case.cached and index is not None else None
        logits = []
        for span in spans:
            mask = filled(case.mask, span) if scene.case.cached else jax.device_put(case.mask)
            at = positions[:, span]
            for change in misleading:
                at = change.positions(at, span.start, case.spans[0].stop)
            call = Call(ids[:, span], at, mask, None, functools.partial(tap, span))
            if scene.stage == EMBED:
                decoder.embed(call, read(decoder.embedding))
            elif index is not None:
                x = self._entering(case.name, "embed" if index == 0 else f"layers.{index - 1}.resid_post", span)
                if past is not None and self._earlier:
                    past = self._past(scene, decoder, index, span)
                _, past = decoder.layer(call, index, read(lambda: decoder.state(index)), x, past)
                past = None if past is None else past._replace(filled=past.filled + (span.stop - span.start))
            else:
                norm, head = read(lambda: decoder.head_parameters(decoder.embedding()))
                x = self._entering(case.name, f"layers.{decoder.arch.layers - 1}.resid_post", span)
                logits.append(decoder.head(call, norm, head, x))
        return logits

    def calls_apart(self, case: CaseEntry) -> bool:
        """Whether a call of a case can be run by itself: the golden cache goes on in front of it."""
        held = {tap.kind for tap in self.source.taps.values() if "slot" in tap.dims}
        return not case.cached or self._replaced | self._earlier >= held

    def _past(self, scene: Scene, decoder: Decoder, index: int, span: slice) -> Past:
        """The golden cache of a layer before a call; at padding what the port has there."""
        case, before = self._case(scene.case.name), slice(0, span.start)
        past = Cache.empty(decoder.arch, case.batch, case.length, self._dtype).layer(index)
        if span.start == 0:
            return past
        buffers: dict[str, jax.Array] = {}
        for kind, buffer in past.held.items():
            golden, whole = self._golden(case.name, f"{scene.stage}.{kind}", before)[:, before], np.array(buffer)
            whole[:, before] = _instead(golden, scene.before.get(kind), np.zeros_like(golden))
            buffers[kind] = self._same(case.name, f"{scene.stage}.{kind} before", before, whole)
        return Past(buffers, past.filled + span.start)

    def _read(self, candidate: Candidate, stage: str, load: Callable[[], Any]) -> Any:
        """The parameters of a stage, read once for all candidates that load them as they are."""
        if not all(isinstance(change, OperationChange | CallChange) for change in candidate.changes):
            return load()
        if stage not in self._parameters:
            self._parameters[stage] = load()
        return self._parameters[stage]

    def _goes_on(self, scene: Scene, name: str, span: slice, value: np.ndarray) -> jax.Array:
        """What one call goes on with: the golden, and at padding, where there is none, what the port has there."""
        golden, seen = self._golden(scene.case.name, name, span), scene.taps.get(kind_of(name))
        if golden.shape != value.shape:
            return jax.device_put(value)
        own = None
        if seen is not None and seen.tap.kind not in CACHE_KINDS:  # a cache has there what k_rope and v have
            own = seen.actual if scene.only is not None else part(seen.tap, seen.actual, span)
        return self._same(scene.case.name, name, span, _instead(golden, own, value))

    def _same(self, case: str, place: str, span: slice, value: np.ndarray) -> jax.Array:
        """What goes on at a place of a case: one object for all candidates, as long as it is the same."""
        key = case, place, span.start, span.stop
        if key not in self._handed or not np.array_equal(self._handed[key][0], value):
            self._handed[key] = value, jax.device_put(value)
        return self._handed[key][1]

    def _golden(self, case: str, name: str, span: slice) -> np.ndarray:
        """What one call sees of a golden; NaN where there is none."""
        tap = self.source.taps[name]
        return np.asarray(part(tap, self.source.rounded(case, name), span)).astype(self._dtype)

    def _entering(self, case: str, name: str, span: slice) -> jax.Array:
        """The golden residual stream, and 0 at padding and where it is not kept."""
        golden = self._golden(case, name, span)
        return self._same(case, f"after {name}", span, np.where(np.isnan(golden), np.zeros_like(golden), golden))


def _instead(golden: np.ndarray, own: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    """A golden, and where it has nothing the port's own value, or what the candidate computes."""
    other = value if own is None or own.shape != golden.shape else own.astype(golden.dtype)
    filled: np.ndarray = np.where(np.isnan(golden), other, golden)
    return filled


def _compared(case: CaseEntry, tap: Tap, values: Sequence[np.ndarray], spans: Sequence[slice]) -> np.ndarray:
    """A tap's values over all calls, at the tokens that a check compares: a cache is compared after every call."""
    if not case.cached:
        return values[0].take(case.kept, tap.position_axis) if case.kept else values[0]
    if tap.kind in CACHE_KINDS:
        held = [value[:, : span.stop] for value, span in zip(values, spans, strict=True)]
        return np.concatenate(held, tap.position_axis)
    return joined(tap, values, case.shape[1])


class _EnoughError(Exception):
    """The last tap that was wanted has been seen."""
