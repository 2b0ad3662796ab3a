"""One pass of one stream through one stage: in one call, or in several with transformers' own KV cache.

The values of all calls are joined along the tokens, so that a decode has the same arrays as a prompt. In replay
the cache is filled with the golden's contents before every call: each step is judged on a golden past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.along import filled
from harness.errors import RecordError
from harness.record.capture import Collector
from harness.record.experts import Choice
from harness.record.model import Stage
from harness.record.shell import Inputs
from harness.taps import CACHE_KINDS, Tap


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of one stream, over all of the case's tokens.

    Attributes:
        values: the wanted taps, by kind.
        out: what goes out.
        chosen: by call, what its router chose.
    """

    values: Mapping[str, Tensor]
    out: Tensor
    chosen: Sequence[Choice] = ()


def run_calls(
    stage: Stage,
    inputs: Inputs,
    spans: Sequence[slice],
    taps: Sequence[Tap],
    precision: str,
    state: Tensor | None,
    replacements: Mapping[str, Tensor],
    pinned: Sequence[Choice] | None = None,
) -> Pass:
    """Run every call of a case through a stage.

    Args:
        inputs: of the whole case.
        spans: the tokens of each call.
        taps: of this stage, those that are wanted.
        state: what comes into the stage, over all tokens; None for the first.
        replacements: kind -> what flows on instead, over all tokens; empty outside replay.
        pinned: by call, what its router chose in the truth; None: it chooses.

    Raises:
        RecordError: a tap fires twice or never, or the cache changed what it held.
    """
    by_kind, held = {tap.kind: tap for tap in taps}, CACHE_KINDS & set(stage.kinds)
    # Made without a config it keeps every slot; made with one it drops what lies before a sliding window.
    cache = DynamicCache() if len(spans) > 1 else None
    values: dict[str, list[Tensor]] = {kind: [] for kind in by_kind}
    outs, chosen = [], []
    for call, span in enumerate(spans):
        if cache is not None and held and held <= replacements.keys():
            cache = _golden_cache([replacements[kind] for kind in stage.kinds if kind in held], span.start)
        given = {kind: value[filled(by_kind[kind].dims, span)] for kind, value in replacements.items()}
        tap = Collector(stage.prefix, by_kind, given, None if pinned is None else pinned[call])
        # A copy, since a replacement in place must not reach what the next pass starts from.
        part = None if state is None else state[:, span].clone(memory_format=torch.contiguous_format)
        outs.append(stage.run(precision, part, inputs.part(span, cache), tap))
        chosen.append(tap.chosen)
        for kind, value in tap.values.items():
            values[kind].append(value)
    if len(spans) == 1:
        return Pass({kind: value for kind, (value,) in values.items()}, outs[0], chosen)
    joined = {kind: _joined(by_kind[kind], parts, stage.prefix) for kind, parts in values.items()}
    return Pass(joined, torch.cat(outs, dim=1), chosen)


def _golden_cache(held: Sequence[Tensor], filled: int) -> DynamicCache:
    """A cache that holds the golden's contents up to a slot: keys and values, or what has no heads."""
    cache = DynamicCache()
    if filled:
        parts = (part[:, :filled] if part.ndim == 4 else part[:, :filled, None] for part in held)
        first, second = (part.transpose(1, 2) for part in parts)
        cache.update(first, second, 0)
    return cache


def _joined(tap: Tap, parts: Sequence[Tensor], stage: str) -> Tensor:
    """A tap's values of all calls as one; a cache is what it is at the end, and must only have grown."""
    last = parts[-1]
    if tap.kind in CACHE_KINDS:
        for part in parts:
            if not torch.equal(part, last[:, : part.shape[1]]):
                problem = "the reference's cache changed what it held"
                expected = "keys and values that stay as they were written"
                hint = "a cache that moves or drops its contents cannot be recorded slot by slot"
                found = f"another content of the first {part.shape[1]} slots at the end"
                raise RecordError(problem, tap.name, expected, found, hint=hint)
        return last
    if "key" in tap.dims:  # keys that are not there yet have no probability
        parts = [torch.nn.functional.pad(part, (0, last.shape[-1] - part.shape[-1])) for part in parts]
    return torch.cat(list(parts), dim=tap.position_axis)
