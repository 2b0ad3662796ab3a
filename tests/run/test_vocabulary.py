"""Embedding and head of a large vocabulary are read in parts, and the model is the same."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from harness import embedded
from harness.architecture import architecture_of, read_config
from harness.run import stages
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.question import Question
from harness.run.stages import parts
from harness.run.weights import Weights

CONFIG = read_config(embedded.directory() / "qwen2-tiny")


@pytest.mark.parametrize("name", ["qwen2-tiny", "gemma2", "gpt-neox"])  # untied; tied, with a cap; another norm
def test_in_parts_it_matches_and_is_never_whole(name, monkeypatch):
    largest: list[int] = []
    read = Weights.read

    def watched(self, parameter, rows=slice(None)):
        value = read(self, parameter, rows)
        if isinstance(rows, slice) and ("embed_" in parameter or "lm_head" in parameter):
            largest.append(value.nbytes)  # a part of the head; of the embedding it is rows one by one
        return value

    monkeypatch.setattr(Weights, "read", watched)
    monkeypatch.setattr(stages, "LARGE", 4096)
    monkeypatch.setattr(stages, "PART", 4096)
    cases = ("decode", "batch-left", "hello") if name == "qwen2-tiny" else ("chunks", "left", "seven")
    question = Question(precisions=("float64",) if name == "gpt-neox" else ("bfloat16",), cases=cases)
    golden = embedded.directory() / f"{name}.h5"
    report = check(golden, embedded.directory() / name, question=question)
    assert report.verdict == "match"
    assert {result.tap for result in report.results} >= {"embed", "final_norm", "logits"}
    assert max(largest) <= 4096


def test_logits_in_parts_are_those_of_the_whole_head(checkpoint, monkeypatch):
    ids = jnp.asarray([[3, 3, 7, 500]], jnp.int32)
    mask = jnp.ones((1, 4), bool)

    def logits():
        port = Decoder.load(checkpoint, CONFIG, jnp.dtype("float32"))
        return np.asarray(port.forward(ids, jnp.arange(4)[None], mask, None, lambda name, value: value)[0])

    whole = logits()
    monkeypatch.setattr(stages, "LARGE", 4096)
    monkeypatch.setattr(stages, "PART", 4096)
    assert np.allclose(logits(), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("large", [1 << 12, 1 << 14, 10_000, 1 << 20])
def test_the_parts_are_all_rows_and_none_is_larger(large, monkeypatch):
    monkeypatch.setattr(stages, "LARGE", large)
    monkeypatch.setattr(stages, "PART", large)
    arch, dtype = architecture_of(CONFIG), jnp.dtype("float32")
    found = parts(arch, dtype)
    assert [n for part in found for n in range(part.start, part.stop)] == list(range(arch.vocab))
    assert max(part.stop - part.start for part in found) * arch.hidden * 4 <= large
