"""Mutants on golden inputs, one stage at a time, operation by operation and without a compilation of their own.

The decoder's stages run eagerly here: JAX keeps the compiled primitives, so that after the first mutant another
one takes a hundredth of a second.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.architecture import Config
from harness.corpus import spans_of
from harness.errors import HarnessError
from harness.golden import CaseEntry
from harness.mutants.diagnosis.candidate import Candidate, build
from harness.mutants.diagnosis.observation import Observation
from harness.mutants.mutant import CallChange, Change, OperationChange
from harness.run.cache import Cache
from harness.run.calls import joined, part
from harness.run.decoder import Decoder
from harness.run.port import Call
from harness.run.precision import in_force, jax_dtype
from harness.run.sequences import filled
from harness.run.source import GoldenSource
from harness.run.tapping import handed_on
from harness.taps import CACHE_KINDS, Tap, kind_of

EMBED, HEAD = "embed", "head"
SpanTap = Callable[[slice, str, jax.Array], jax.Array]


def stage_of(tap: Tap) -> str:
    """The stage of the decoder that computes a tap: `embed`, `layers.3` or `head`."""
    return tap.stage or (EMBED if tap.kind == "embed" else HEAD)


def layer_of(stage: str) -> int | None:
    """The index of a layer's stage; None outside the layers."""
    return None if stage in (EMBED, HEAD) else int(stage.rpartition(".")[2])


@dataclass(frozen=True, eq=False)
class Scene:
    """The port at one stage of one case: all the taps that it exposes there, in data-flow order."""

    case: CaseEntry
    stage: str
    taps: Mapping[str, Observation]

    @property
    def faulty(self) -> tuple[str, ...]:
        """The kinds that are wrong on golden inputs."""
        return tuple(kind for kind, seen in self.taps.items() if seen.faulty)


class Bench:
    """Runs candidates on the golden inputs of a scene.

    Args:
        source: the golden, at the precision of the scenes.
        checkpoint, config: what the port was loaded from.
        replaced: kinds of taps at which the port goes on with the golden. At others the mutant goes on with
            its own values, as the port does.
        arithmetic: the precision in which mutants compute; None is that of the scenes.
    """

    def __init__(
        self,
        source: GoldenSource,
        checkpoint: Path,
        config: Config,
        replaced: frozenset[str],
        arithmetic: str | None = None,
    ) -> None:
        self.source, self._checkpoint, self._config, self._replaced = source, checkpoint, config, replaced
        self._dtype = jax_dtype(arithmetic or source.precision)
        self._last: tuple[Candidate, Decoder] | None = None
        self._parameters: dict[str, Any] = {}
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

    def exactly(self, candidate: Candidate, scene: Scene) -> Mapping[str, np.ndarray] | None:
        """What the candidate computes of the same inputs in float64; None where that is what `predict` says."""
        if self.source.precision == "float64":
            return None
        if self._exact is None:
            self._exact = Bench(self.source, self._checkpoint, self._config, self._replaced, "float64")
        with in_force("float64"):
            return self._exact.predict(candidate, scene)

    def _decoder(self, changes: Sequence[Change]) -> Decoder:
        return build(changes, self._checkpoint, self._config, self._dtype)

    def _run(
        self, candidate: Candidate, decoder: Decoder, scene: Scene, until: str | None
    ) -> Mapping[str, np.ndarray]:
        case = self._case(scene.case.name)
        found: dict[str, list[np.ndarray]] = {}

        def tap(span: slice, name: str, value: jax.Array) -> jax.Array:
            kind = kind_of(name)
            found.setdefault(kind, []).append(np.asarray(value))
            if kind == until and span.stop == case.length:
                raise _EnoughError
            return handed_on(name, self._golden(case.name, name, span), value) if kind in self._replaced else value

        with contextlib.suppress(_EnoughError):
            logits = self._stage(candidate, decoder, scene, tap)
            if scene.stage == HEAD:
                found["logits"] = [np.asarray(value) for value in logits]
        taps = {kind: seen.tap for kind, seen in scene.taps.items() if len(found.get(kind, ())) == len(case.spans)}
        return {kind: _compared(scene.case, tap, found[kind]) for kind, tap in taps.items()}

    def _stage(self, candidate: Candidate, decoder: Decoder, scene: Scene, tap: SpanTap) -> list[jax.Array]:
        """Run the stage's function on golden inputs, call by call; the logits, where it is the head."""
        case, index = self._case(scene.case.name), layer_of(scene.stage)
        read = functools.partial(self._read, candidate, scene.stage)
        ids, positions = jnp.asarray(case.input_ids, jnp.int32), jnp.asarray(case.positions, jnp.int32)
        misleading = [change for change in candidate.changes if isinstance(change, CallChange)]
        past = None
        if scene.case.cached and index is not None:
            past = Cache.empty(decoder.arch, case.batch, case.length, self._dtype).layer(index)
        logits = []
        for span in case.spans:
            mask = filled(case.mask, span) if scene.case.cached else jnp.asarray(case.mask)
            at = positions[:, span]
            for change in misleading:
                at = change.positions(at, span.start, case.spans[0].stop)
            call = Call(ids[:, span], at, mask, None, functools.partial(tap, span))
            if scene.stage == EMBED:
                decoder.embed(call, read(decoder.embedding))
            elif index is not None:
                x = self._entering(case.name, "embed" if index == 0 else f"layers.{index - 1}.resid_post", span)
                _, past = decoder.layer(call, index, read(lambda: decoder.state(index)), x, past)
                past = None if past is None else past._replace(filled=past.filled + (span.stop - span.start))
            else:
                norm, head = read(lambda: decoder.head_parameters(decoder.embedding()))
                x = self._entering(case.name, f"layers.{decoder.arch.layers - 1}.resid_post", span)
                logits.append(decoder.head(call, norm, head, x))
        return logits

    def _read(self, candidate: Candidate, stage: str, load: Callable[[], Any]) -> Any:
        """The parameters of a stage, read once for all candidates that load them as they are."""
        if not all(isinstance(change, OperationChange | CallChange) for change in candidate.changes):
            return load()
        if stage not in self._parameters:
            self._parameters[stage] = load()
        return self._parameters[stage]

    def _golden(self, case: str, name: str, span: slice) -> jax.Array:
        """What one call sees of a golden; NaN where there is none."""
        tap = self.source.taps[name]
        return jnp.asarray(np.asarray(part(tap, self.source.rounded(case, name), span)).astype(self._dtype))

    def _entering(self, case: str, name: str, span: slice) -> jax.Array:
        """The golden residual stream, and 0 at padding and where it is not kept."""
        return jnp.nan_to_num(self._golden(case, name, span))


def _compared(case: CaseEntry, tap: Tap, values: Sequence[np.ndarray]) -> np.ndarray:
    """A tap's values over all calls, at the tokens that a check compares: a cache is compared after every call."""
    if not case.cached:
        return values[0].take(case.kept, tap.position_axis) if case.kept else values[0]
    if tap.kind in CACHE_KINDS:
        filled = [value[:, : span.stop] for value, span in zip(values, spans_of(case.calls), strict=True)]
        return np.concatenate(filled, tap.position_axis)
    return joined(tap, values, case.shape[1])


class _EnoughError(Exception):
    """The last tap that was wanted has been seen."""
