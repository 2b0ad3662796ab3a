"""A part of the decoder on golden inputs, with something replaced: what an audit and a diagnosis both run.

The decoder's stages run outside `jax.jit`, operation by operation: JAX keeps what it compiled of each, so that no
mutant is compiled. What a mutant leaves as it is is not even computed again: parameters, goldens and the results
of operations on them are the same objects for all mutants (`remembered`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Num

from harness.along import give
from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.mutants.batches import CaseBatch, at_exact_lengths
from harness.mutants.mutant import CallChange, Change
from harness.mutants.planting import decoder_with
from harness.mutants.remembered import Memory, remembering
from harness.run.arithmetic import one_by_one_of
from harness.run.cache import Cache, Past
from harness.run.decoder import Decoder
from harness.run.port import Call
from harness.run.precision import jax_dtype
from harness.run.source import CachedArrays, GoldenSource
from harness.run.tapping import pinned
from harness.run.weights import Weights

KEPT_BYTES = 256 * 2**20  # two layers of a 0.5B in bfloat16, or all of a small model
EMBED, HEAD = "embed", "head"
# Options of an architecture that change what is computed, and not with which parameters.
ARITHMETIC = (
    *("ropes", "windows", "scale", "activation", "score_cap", "logit_cap"),
    *("embed_scale", "residual_scale", "logit_scale"),
)
CallTap = Callable[[int, str, jax.Array], jax.Array]
Entering = Callable[[int], Array]


def stages_of(layers: int) -> tuple[str, ...]:
    """The stages of a decoder: `embed`, `layers.0`, ..., `head`."""
    return EMBED, *(f"layers.{index}" for index in range(layers)), HEAD


def layer_of(stage: str) -> int | None:
    """The index of a layer's stage; None outside the layers."""
    return None if stage in (EMBED, HEAD) else int(stage.rpartition(".")[2])


def left_by(stage: str) -> str:
    """The tap of the residual stream that leaves a stage."""
    return EMBED if stage == EMBED else f"{stage}.resid_post"


class _Handed(NamedTuple):
    """What went on in place of a value."""

    value: Array | None
    whole: np.ndarray
    goes_on: Array


class _Kept(Checkpoint):
    """A checkpoint whose latest parameters are kept: most mutants read the same few, one after the other."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._recent = CachedArrays(super().read, KEPT_BYTES)

    def read(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        value = self._recent(name)
        value.flags.writeable = False  # it is shared
        return value[rows]


class Bench:
    """Runs stages of the decoder with changes planted, all at one precision.

    Args:
        source: the golden, whose values go on where they are asked for.
        checkpoint, config: known to be the golden's.
        arithmetic: the precision to compute in; None is that of the source.
    """

    def __init__(
        self, source: GoldenSource, checkpoint: Path, config: Config, arithmetic: str | None = None
    ) -> None:
        self.source, self.config, self.arch = source, config, architecture_of(config)
        self._checkpoint = open_checkpoint(checkpoint, config, _Kept)
        self.dtype = jax_dtype(arithmetic or source.precision)
        self._memory = Memory(KEPT_BYTES)
        self._operations = functools.cache(lambda arch: remembering(one_by_one_of(arch), self._memory))
        self._parameters: dict[str, Any] = {}
        self._handed: dict[tuple[int, str, int], list[_Handed]] = {}
        self._empty = functools.cache(Cache.empty)

    @functools.cached_property
    def right(self) -> Decoder:
        """The decoder without any change."""
        return self.decoder()

    def forget(self) -> None:
        """Release what was kept of a stage."""
        self._memory.forget()
        self._parameters.clear()
        self._handed.clear()

    def decoder(
        self,
        changes: Sequence[Change] = (),
        by_layer: Mapping[int, Sequence[Change]] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Decoder:
        """The decoder with these changes; those of how it is called are made by `run`.

        Args:
            by_layer: changes of operations in some layers alone.
            lengths: of the rows of a batch, where masks are computed at exact lengths.

        Raises:
            CheckpointError: a changed config or parameter that the decoder does not compute.
        """
        exact = functools.partial(at_exact_lengths, lengths=lengths)
        given = (self._checkpoint, self.config, self.dtype)
        return decoder_with(changes, *given, by_layer or {}, self._operations, exact, self.arch)

    def parameters(self, decoder: Decoder, stage: str) -> Any:
        """The parameters of a stage; each that is the right decoder's is that very object."""
        if stage not in self._parameters:
            self._parameters[stage] = _read(self.right, stage)
        right = self._parameters[stage]
        alike = _with_parameters_of(self.arch, decoder.arch) == self.arch
        if alike and type(decoder.weights) is Weights:
            return right
        return _shared(_read(decoder, stage, right if alike else None), right)

    def run(
        self,
        decoder: Decoder,
        stage: str,
        batch: CaseBatch,
        parameters: Any,
        entering: Entering,
        tap: CallTap,
        *,
        calls: Sequence[int] | None = None,
        past: Callable[[int, Past | None], Past] | None = None,
        misled: Sequence[CallChange] = (),
        remember: bool = True,
    ) -> list[Array]:
        """One stage of a batch, call by call.

        Args:
            entering: call -> the residual stream; not asked by the first stage.
            tap: (call, tap, value) -> what goes on.
            calls: which ones; None is all.
            past: (call, cache after the call before) -> the cache that a layer is given; None: an empty one at
                first, and then what the call before has made of it.
            misled: changes of how it is called.
            remember: whether results of operations are looked up; on a mutant's own values none comes twice.

        Returns:
            What leaves the stage, by call.
        """
        index, held = layer_of(stage), None
        leaving = []
        with self._memory.active(remember):
            for call in range(len(batch.spans)) if calls is None else calls:
                ids, positions, mask = batch.inputs(call)
                for change in misled:
                    positions = change.positions(positions, batch.spans[call].start, batch.spans[0].stop)
                given = Call(ids, positions, mask, None, functools.partial(tap, call))
                if stage == EMBED:
                    leaving.append(decoder.embed(given, parameters))
                elif index is None:
                    norm, head = parameters
                    leaving.append(decoder.head(given, norm, head, entering(call)))
                else:
                    if batch.cached:
                        held = past(call, held) if past else held or self.empty_cache(decoder, batch, index)
                    x, held = decoder.layer(given, index, parameters, entering(call), held)
                    held = held and held._replace(filled=held.filled + ids.shape[1])
                    leaving.append(x)
        return leaving

    def empty_cache(self, decoder: Decoder, batch: CaseBatch, index: int) -> Past:
        """The cache of a layer before the first call."""
        rows, length = batch.input_ids.shape
        return self._empty(decoder.arch, rows, length, self.dtype).layer(index)

    def goes_on(
        self,
        batch: CaseBatch,
        call: int,
        name: str,
        value: Array,
        own: Num[np.ndarray, "..."] | None = None,
    ) -> Array:
        """A tap's value in one call, with the goldens in its place.

        A value of another shape than the golden goes on as it is, and a comparison refuses it.

        Args:
            own: what is there where the golden has nothing; None is the value.
        """
        kept = self._handed.setdefault((id(batch), name, call), [])
        for handed in kept:
            if handed.value is value:
                return handed.goes_on
        seen = np.asarray(value)
        under = seen if own is None or own.shape != seen.shape else own.astype(seen.dtype)
        whole = self._in_place(batch, call, name, under)
        return value if whole is None else self.same(batch, call, name, whole, value)

    def pinned(self, batch: CaseBatch, call: int, name: str, value: Array) -> Array:
        """What a forward pass goes on with at the weights of experts: as in a check, the golden's choice."""
        whole = self._in_place(batch, call, name, np.full(value.shape, np.nan, value.dtype))
        return value if whole is None else pinned(name, whole, value)

    def _in_place(self, batch: CaseBatch, call: int, name: str, under: np.ndarray) -> np.ndarray | None:
        """Values with the goldens over them; None where none is recorded, or one has another shape."""
        tap, recorded = self.source.taps[name], batch.recorded(name)
        goldens = {rows.entry.name: self.golden(batch, call, rows.entry.name, name) for rows in recorded}
        fits = all(batch.cut(tap, rows, under).shape == goldens[rows.entry.name].shape for rows in recorded)
        return batch.replace(tap, under, goldens) if recorded and fits else None

    def same(
        self, batch: CaseBatch, call: int, place: str, whole: Num[np.ndarray, "..."], value: Array | None = None
    ) -> Array:
        """What goes on at a place of a batch: one object for all mutants, as long as it is the same.

        Args:
            value: what stands for it the next time.
        """
        kept = self._handed.setdefault((id(batch), place, call), [])
        before = next((handed.goes_on for handed in kept if _same(handed.whole, whole)), None)
        made = _Handed(value, whole, jax.device_put(whole) if before is None else before)
        kept[1:] = [made]  # the first is the right decoder's, and the other the latest
        return made.goes_on

    def golden(self, batch: CaseBatch, call: int, case: str, name: str) -> Num[np.ndarray, "..."]:
        """What one call sees of a golden at the precision of the source; NaN where there is none."""
        value = self.source.rounded(case, name)
        return give(self.source.taps[name], value, batch.spans[call]) if batch.cached else value


def _with_parameters_of(right: Architecture, arch: Architecture) -> Architecture:
    """An architecture with all of the right one that says nothing about parameters."""
    norms = {
        name: replace(own, eps=theirs.eps)
        for name in ("norm", "qk_norm")
        if (own := getattr(arch, name)) and (theirs := getattr(right, name))
    }
    return replace(arch, **{name: getattr(right, name) for name in ARITHMETIC}, **norms)


def _read(decoder: Decoder, stage: str, right: Any = None) -> Any:
    """A stage's parameters; of a layer each that the decoder has of the checkpoint as it is may be known."""
    if stage == EMBED:
        return decoder.embedding()
    index = layer_of(stage)
    return decoder.head_parameters(decoder.embedding()) if index is None else decoder.state(index, right)


def _shared(own: Any, right: Any) -> Any:
    """The parameters, with the right ones' objects where they are equal."""
    if jax.tree.structure(own) != jax.tree.structure(right):
        return own
    return jax.tree.map(lambda mine, theirs: theirs if _same(mine, theirs) else mine, own, right)


def _same(mine: Array | np.ndarray, theirs: Array | np.ndarray) -> bool:
    """Bit for bit, but for the sign of 0."""
    if mine is theirs:
        return True
    return mine.shape == theirs.shape and mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
