"""keras-hub's Qwen, unedited: what is right in it, and what is not. Needs keras-hub (README.md)."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("keras_hub", reason="keras-hub is not installed: see tests/clients/README.md")

from keras_hub.src.models.qwen import qwen_attention

from harness.tolerances import PRECISIONS
from tests.clients.checking import checked, introduced, largest, proposed
from tests.clients.keras_hub_qwen import Batched, Cached, Port

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


def test_qwen2_matches_at_every_tap_and_precision():
    report = checked("qwen2-tiny", Port, PRECISIONS)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13
    assert not [line for line in report.not_covered if line.startswith("tap ")]


def test_its_cache_matches_step_by_step_in_chunks_and_as_it_writes_on():
    report = checked("qwen2-tiny", Cached, PRECISIONS, cases=("decode", "chunked", "greedy"))
    assert report.verdict == "match", report.introduced
    assert {"cache_k", "cache_v"} <= {r.tap.rpartition(".")[2] for r in report.results}
    assert [one.agreed for one in report.generations if one.precision != "bfloat16"] == [32, 32]


def test_a_padded_batch_is_decoded_right_where_its_layers_are_told_the_pads():
    """Its own loop hands no mask on: pads are seen."""
    report = checked("qwen2-tiny", Cached, ("float64",), cases=("batch-decode",))
    assert introduced(report)[0] == {"probs"}
    report = checked("qwen2-tiny", Batched, PRECISIONS, cases=("batch-decode",))
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13


class Windowed(Port):
    """The config says use_sliding_window; its converter hands that on by a name that nothing reads."""

    windowed = (True, True, True)

    @classmethod
    def load(cls, *arguments):
        port = super().load(*arguments)
        assert not port.model.use_sliding_window_attention
        for layer, windowed in zip(port.model.transformer_layers, cls.windowed, strict=True):
            layer._self_attention_layer.use_sliding_window_attention = windowed
        return port


class Unfused(Windowed):
    """The path without jax.nn.dot_product_attention, which is the one that knows windows."""

    taps = {
        **{path: tap for path, tap in Port.taps.items() if "softmax" not in path},
        "transformer_layers.{i}._self_attention_layer._softmax": "layers.{i}.probs",
    }


class Repaired(Unfused):
    """max_window_layers is not read either: the layers before it have no window."""

    windowed = (False, True, True)


def test_the_window_is_lost_when_a_checkpoint_is_loaded_ignored_on_jax_and_given_to_every_layer(monkeypatch):
    """Three defects, one behind the other; after three repairs of a line each the port matches."""
    assert introduced(checked("qwen2-window", Port, ("float64",))) == ({"probs"}, {"1", "2"})
    # The fused path, which Keras takes on JAX whatever the device, leaves the window out.
    assert introduced(checked("qwen2-window", Windowed, ("float64",))) == ({"probs"}, {"1", "2"})
    monkeypatch.setattr(qwen_attention, "fused_attention_op_available", lambda: False)
    assert introduced(checked("qwen2-window", Unfused, ("float64",))) == ({"probs"}, {"0"})
    report = checked("qwen2-window", Repaired, PRECISIONS)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13


def test_its_table_is_proposed_for_calls_with_a_cache_as_well(monkeypatch):
    found, share = proposed(monkeypatch, "qwen2-tiny", Cached)
    assert share >= 0.9
    assert (found.missing, found.logits) == ((), True)
    assert not [row for row in found.rows if row.wrong]
