"""Greedy generation, free-running: the tokens that the reference writes, in float64 truth and in float32.

It needs the last layer's answer before the first layer's next question, so the weights are read once per token,
all cases and both precisions together; those of a small model once. The caches of all layers stay in memory.
Nothing ends early: a token that ends a text for a chat program is a token like any other here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.layout import GENERATED_PRECISIONS
from harness.record.capture import Collector
from harness.record.model import Reference, Stage
from harness.record.noise import DTYPES
from harness.record.shell import Inputs
from harness.record.work import Work

GENERATION = "generation"  # the name of its units of work
SMALL = 256 * 2**20  # bytes of weights at all precisions that may stay from token to token


@dataclass
class Stream:
    """One text at one precision while it grows.

    Attributes:
        tokens: what is written so far.
        margins: by how much the logits preferred each of them over the runner-up.
    """

    ids: Sequence[int]
    precision: str
    count: int
    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    caches: dict[str, DynamicCache] = field(default_factory=dict)
    state: Tensor | None = None

    def inputs(self, stage: str, device: torch.device) -> Inputs:
        """The next call: the text, or the token that was written last."""
        filled = len(self.ids) + len(self.tokens)
        new = list(self.ids) if not self.tokens else self.tokens[-1:]
        positions = torch.arange(filled - len(new), filled, device=device)[None]
        mask = torch.ones(1, filled, dtype=torch.bool, device=device)
        cache = self.caches.setdefault(stage, DynamicCache())
        return Inputs(torch.tensor([new], device=device), positions, mask, cache)

    def write(self, logits: Tensor) -> None:
        """Take the most likely token after the last position of [1, position, vocab]."""
        best = logits[0, -1].topk(2)
        self.tokens.append(int(best.indices[0]))
        self.margins.append(float(best.values[0].double() - best.values[1].double()))


def generate_missing(
    model: Reference, texts: Mapping[str, Sequence[int]], counts: Mapping[str, int], work: Work
) -> dict[str, list[int]]:
    """Continue every text; what an earlier, unfinished recording wrote is taken up.

    Args:
        texts: token ids by case.
        counts: how many tokens each is continued by.

    Returns:
        By case, the tokens written in float64.
    """
    missing = [name for name in texts if not work.has(GENERATION, name)]
    streams = {
        (name, precision): Stream(texts[name], precision, counts[name])
        for name in missing
        for precision in GENERATED_PRECISIONS
    }
    run_streams(model, list(streams.values()))
    for name in missing:
        tensors = {}
        for precision in GENERATED_PRECISIONS:
            stream = streams[name, precision]
            tensors[f"{precision}/tokens"] = torch.tensor([stream.tokens], dtype=torch.int32)
            tensors[f"{precision}/margins"] = torch.tensor([stream.margins], dtype=torch.float64)
        work.put(GENERATION, name, tensors)
    written = {}
    for name in texts:
        with work.reading(GENERATION, name) as unit:
            written[name] = unit.tensor("float64/tokens")[0].tolist()
    return written


def run_streams(model: Reference, streams: Sequence[Stream]) -> None:
    """Let all streams grow to their full length, token by token, each stage's weights read once per token.

    Of a small model they are read once.
    """
    precisions = tuple(dict.fromkeys(stream.precision for stream in streams))
    held: dict[str, Stage] = {}
    size = sum(map(math.prod, model.shapes.values())) * sum(DTYPES[precision].itemsize for precision in precisions)
    while growing := [stream for stream in streams if len(stream.tokens) < stream.count]:
        for name in model.stages:
            stage = held.get(name) or model.load(name, precisions)
            if size <= SMALL:
                held[name] = stage
            for stream in growing:
                inputs = stream.inputs(name, model.device)
                state = None if name == model.stages[0] else stream.state
                stream.state = stage.run(stream.precision, state, inputs, Collector(stage.prefix, ()))
            del stage  # before the next one's weights are read
        for stream in growing:
            assert stream.state is not None
            stream.write(stream.state)
