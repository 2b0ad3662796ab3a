"""One port on trial: the right decoder, or the decoder with a mutant in it, taken stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.architecture import Config, architecture_of
from harness.generation import Continuation
from harness.golden import CaseEntry
from harness.mutants.batches import Batch
from harness.mutants.criteria import LogitFigures
from harness.mutants.exact import MASKING, at_exact_lengths
from harness.mutants.mutant import (
    CallChange,
    ConfigChange,
    Mutant,
    OperationChange,
    OptionChange,
    WeightChange,
    planted,
)
from harness.mutants.planting import load_mutant
from harness.results import TapResult, Verdict
from harness.run.arithmetic import operations_of
from harness.run.decoder import Decoder
from harness.run.port import Call
from harness.run.tapping import TapFunction

INFINITE = float("inf")
EMBED, HEAD = "embed", "head"
Stage = str | int
OF_EMBED = frozenset({"embed", "embed_scale", "add_positions"})
OF_HEAD = frozenset({"final_norm", "head", "logit_scale", "logit_cap"})


@dataclass(frozen=True)
class Sight:
    """A comparison whose value is not, bit for bit, the right decoder's.

    Attributes:
        complete: whether the case recorded every operation.
        margin: the noise multiple divided by its limit, rms or max, whichever is larger; above 1 it is caught.
            Infinite where nothing could be compared, or the value is not finite.
        rms: the rms noise multiple, likewise.
    """

    case: str
    complete: bool
    mode: str
    tap: str
    verdict: Verdict
    margin: float
    rms: float


def sight_of(result: TapResult, entry: CaseEntry) -> Sight:
    """A comparison as a sight."""
    rms = INFINITE if result.rms_multiple is None else result.rms_multiple
    return Sight(entry.name, entry.complete, result.mode, result.tap, result.verdict, result.share, rms)


@dataclass(eq=False)
class Subject:
    """A port on trial and what was seen of it so far.

    Attributes:
        decoders: by batch; they differ only where a mask must be computed at exact lengths.
        hidden: by batch, the residual stream of the forward pass.
        residual: the last tap of the residual stream that it computed.
        logits: by case, the figures of the forward pass.
        generations: what it wrote by itself.
        refusal: why it could not be run to the end.
    """

    mutant: Mutant
    decoders: Sequence[Decoder]
    hidden: list[Array] = field(default_factory=list)
    residual: str = "embed"
    sights: list[Sight] = field(default_factory=list)
    logits: dict[str, LogitFigures] = field(default_factory=dict)
    generations: list[Continuation] = field(default_factory=list)
    refusal: str | None = None

    def has(self, stage: Stage) -> bool:
        """Whether it computes the stage at all: a mutant may have fewer layers."""
        return isinstance(stage, str) or stage < self.decoders[0].arch.layers

    def parameters(self, stage: Stage, shared: Any) -> Any:
        """The parameters of a stage: the `shared` ones unless the mutant changes how they are read."""
        if shared is not None and isinstance(self.mutant.change, OperationChange):
            return shared
        decoder = self.decoders[0]
        if stage == EMBED:
            return decoder.embedding()
        if stage == HEAD:
            return decoder.head_parameters(decoder.embedding())
        assert isinstance(stage, int)
        return decoder.state(stage)

    def touches(self, stage: Stage, own: Any, right: Any, layers: int) -> bool:
        """Whether the stage can differ from the right decoder's: other operations, parameters or config."""
        match self.mutant.change:
            case OperationChange(replaced=replaced) if isinstance(stage, int):
                return bool(set(replaced) - OF_EMBED - OF_HEAD) and stage in self.mutant.in_layers(layers)
            case OperationChange(replaced=replaced):
                return bool(set(replaced) & (OF_EMBED if stage == EMBED else OF_HEAD))
            case WeightChange():
                return not _same(own, right)
            case ConfigChange() | OptionChange() | CallChange():
                return True

    def run(self, stage: Stage, batch: Batch, index: int, parameters: Any, x: Array, tap: TapFunction) -> Array:
        """One stage of one batch: its output.

        Args:
            index: of the batch.
            x: the residual stream; not looked at by the first stage.
        """
        decoder = self.decoders[index]
        ids, positions, mask = map(jax.device_put, (batch.input_ids, batch.positions, batch.mask))
        call = Call(ids, positions, mask, None, tap)
        if stage == EMBED:
            return decoder.embed(call, parameters)
        if stage == HEAD:
            norm, head = parameters
            return decoder.head(call, norm, head, x)
        assert isinstance(stage, int)
        return decoder.layer(call, stage, parameters, x, None)[0]


@dataclass(frozen=True, eq=False)
class Trial:
    """What was seen.

    Attributes:
        right: the right decoder, of which every comparison was seen.
        subjects: the mutants, of which only what differs from it was.
        forced: how many comparisons the forced failure failed.
    """

    right: Subject
    subjects: Sequence[Subject]
    forced: int


def subject(
    mutant: Mutant, checkpoint: Path, config: Config, dtype: jnp.dtype, batches: Sequence[Batch], exact: bool
) -> Subject:
    """A mutant (or the right decoder) ready to be run.

    Args:
        exact: whether masks are computed at exact lengths; for operation and numerics mutants.

    Raises:
        HarnessError: as `Decoder.load`.
    """
    change = mutant.change
    if not exact or not isinstance(change, OperationChange):
        return Subject(mutant, [_decoder(mutant, checkpoint, config, dtype)] * len(batches))
    operations = planted(operations_of(architecture_of(config)), [change])
    wrapped = [at_exact_lengths(operations, batch.lengths) for batch in batches]
    changes = [
        replace(change, replaced={**change.replaced, **{name: getattr(ops, name) for name in MASKING}})
        for ops in wrapped
    ]
    at_lengths = [replace(mutant, change=changed) for changed in changes]
    return Subject(mutant, [_decoder(one, checkpoint, config, dtype) for one in at_lengths])


def _decoder(mutant: Mutant, checkpoint: Path, config: Config, dtype: jnp.dtype) -> Decoder:
    loaded = load_mutant(mutant, checkpoint, config, dtype)
    assert isinstance(loaded, Decoder)
    return loaded


def _same(own: Any, right: Any) -> bool:
    mine, theirs = jax.tree.leaves(own), jax.tree.leaves(right)
    return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
