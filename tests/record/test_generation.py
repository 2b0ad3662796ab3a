"""How often the weights are read while texts are written."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.record import generation
from harness.record.model import Reference


@pytest.mark.parametrize(("small", "tokens"), [(generation.SMALL, 1), (0, 2)])
def test_weights_are_read_once_per_token_and_those_of_a_small_model_once(tiny, monkeypatch, small, tokens):
    model, read = Reference(tiny), []
    load = model.load
    monkeypatch.setattr(generation, "SMALL", small)
    monkeypatch.setattr(model, "load", lambda name, precisions: read.append(name) or load(name, precisions))
    stream = generation.Stream([5, 300, 7], "float32", 2)
    generation.run_streams(model, [stream])
    assert read == [*model.stages] * tokens and len(stream.tokens) == 2
