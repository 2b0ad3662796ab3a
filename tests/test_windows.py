"""The window of every layer, from both dialects; what contradicts itself or is missing is refused."""

from __future__ import annotations

import json

import pytest

from harness.architecture import architecture_of, difference
from harness.errors import CheckpointError
from tests.small_decoder import WINDOW
from tests.test_architecture import HUB

FULL, SLIDING = "full_attention", "sliding_attention"
TYPES = {**WINDOW, "layer_types": [FULL, FULL, SLIDING, SLIDING]}


def test_the_layers_from_max_window_layers_on_have_the_window():
    assert architecture_of(WINDOW).windows == (None, None, 6, 6)
    assert architecture_of({**WINDOW, "max_window_layers": 0}).windows == (6,) * 4
    assert architecture_of({**WINDOW, "max_window_layers": 28}).windows == (None,) * 4


def test_layer_types_say_the_same_and_may_stand_alone():
    assert architecture_of(TYPES) == architecture_of(WINDOW)
    alternating = {**TYPES, "layer_types": [SLIDING, FULL, SLIDING, FULL], "max_window_layers": None}
    assert architecture_of(alternating).windows == (6, None, 6, None)


def test_a_window_that_is_switched_off_is_none():
    """As published with Qwen2.5: there is a width, and it is not used."""
    published = {**HUB, "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 2}
    transformers_5 = {**published, "sliding_window": None, "layer_types": [FULL] * 4}
    neither = {field: value for field, value in HUB.items() if field != "use_sliding_window"}
    for config in (published, transformers_5, neither):
        assert architecture_of(config).windows == (None,) * 4


@pytest.mark.parametrize(
    ("change", "message", "where", "found"),
    [
        ({"sliding_window": None}, "the config lacks a field", "sliding_window", "nothing"),
        ({"sliding_window": 0}, "not a positive whole number", "sliding_window", "0.0"),
        ({"sliding_window": "6"}, "not a number", "sliding_window", "'6'"),
        ({"max_window_layers": -1}, "not a whole number", "max_window_layers", "-1"),
        ({"max_window_layers": None}, "does not say which layers", "max_window_layers or layer_types", "neither"),
        ({"use_sliding_window": None}, "does not say whether it is used", "use_sliding_window", "None"),
        ({"use_sliding_window": "yes"}, "does not say whether it is used", "use_sliding_window", "'yes'"),
        ({"layer_types": [SLIDING] * 4}, "says twice which layers", "max_window_layers and layer_types", SLIDING),
        ({"layer_types": [FULL] * 3}, "list of layer types is not supported", "layer_types", FULL),
        ({"layer_types": ["chunked_attention"] * 4}, "list of layer types", "layer_types", "chunked"),
        ({"layer_types": SLIDING}, "list of layer types", "layer_types", SLIDING),
        (
            {"use_sliding_window": False, "layer_types": TYPES["layer_types"]},
            "switches the sliding window off, and gives it to layers",
            "use_sliding_window and layer_types",
            "False and",
        ),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_refused(change, message, where, found):
    with pytest.raises(CheckpointError, match=message) as refusal:
        architecture_of({**WINDOW, **change})
    assert f"where:    config.json: {where}\n" in str(refusal.value)
    assert found in str(refusal.value.found)
    assert "hint:" in str(refusal.value)


def test_dynamic_rope_stays_refused_beside_a_window():
    with pytest.raises(CheckpointError, match="RoPE scaling"):
        architecture_of({**WINDOW, "rope_scaling": {"type": "dynamic", "factor": 4.0}})


def test_another_window_is_another_architecture():
    assert difference(WINDOW, TYPES) == []
    assert difference(WINDOW, {**WINDOW, "sliding_window": 7}) == [
        ("windows", (None, None, 6, 6), (None, None, 7, 7))
    ]
    assert difference(WINDOW, {**WINDOW, "use_sliding_window": False}) == [
        ("windows", (None, None, 6, 6), (None,) * 4)
    ]


@pytest.mark.record
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2, 9])
def test_transformers_gives_the_same_layers_the_same_window_and_writes_what_is_read_here(used, first, tmp_path):
    transformers = pytest.importorskip("transformers")
    fields = {"use_sliding_window": used, "sliding_window": 6, "max_window_layers": first}
    fields |= {"num_hidden_layers": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    theirs = transformers.Qwen2Config(**fields)
    theirs.save_pretrained(tmp_path)
    windows = architecture_of(json.loads((tmp_path / "config.json").read_text())).windows
    assert windows == tuple(theirs.sliding_window if kind == SLIDING else None for kind in theirs.layer_types)
    assert windows == architecture_of({**HUB, **fields}).windows
