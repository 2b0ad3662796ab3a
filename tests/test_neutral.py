"""Every field of a config is known by name, or refused; every value that is read is what it has to be."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import embedded
from harness.architecture import architecture_of, read_config
from harness.errors import CheckpointError
from harness.families import families
from harness.families.neutral import HARMLESS, ONLY, REFUSED
from harness.families.windows import MOST_LAYERS
from tests.small_decoder import WINDOW, fields_read
from tests.test_architecture import HUB, TRANSFORMERS_5

ABSURD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**9, 10**400),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers() | st.text(max_size=4), max_size=3),
    st.dictionaries(
        st.sampled_from(["rope_theta", "rope_type", "type", "factor", "x"]), st.integers() | st.text()
    ),
)
BASES = st.sampled_from([HUB, TRANSFORMERS_5, WINDOW])


READ = fields_read()
ONLY_OF_QWEN2 = {**ONLY, **families()["qwen2"].only}


@settings(deadline=None)  # machines are shared
@given(BASES, st.dictionaries(st.sampled_from(sorted(READ)), ABSURD, max_size=4))
def test_any_value_of_any_field_is_read_or_refused_in_few_words(base, changes):
    try:
        found = architecture_of(base | changes)
    except CheckpointError as refusal:
        assert len(str(refusal)) < 3000 and refusal.hint
        return
    assert found.heads % found.kv_heads == 0 and found.head_dim % 2 == 0
    assert math.isfinite(found.ropes[0].theta) and math.isfinite(found.norm.eps)
    assert len(found.windows) == found.layers <= MOST_LAYERS


@settings(deadline=None)  # machines are shared
@given(BASES, st.text(max_size=20), ABSURD)
def test_a_field_that_is_not_known_is_refused_by_name_unless_it_says_nothing(base, field, value):
    if field in READ | HARMLESS | set(ONLY_OF_QWEN2) | set(REFUSED):
        return
    if value is None:
        assert architecture_of(base | {field: value}) == architecture_of(base)
        return
    with pytest.raises(CheckpointError, match="not known here") as refusal:
        architecture_of(base | {field: value})
    assert refusal.value.where == f"config.json: {field}"


@pytest.mark.parametrize("field", sorted(HARMLESS))
def test_a_harmless_field_changes_nothing_whatever_it_says(field):
    assert architecture_of(HUB | {field: [1, {"a": "b"}]}) == architecture_of(HUB)


@pytest.mark.parametrize("field", sorted(ONLY_OF_QWEN2))
def test_a_field_of_other_models_may_only_say_what_this_one_does_anyway(field):
    assert architecture_of(HUB | {field: ONLY_OF_QWEN2[field]}) == architecture_of(HUB)
    for other in (not ONLY_OF_QWEN2[field], 2, "yes"):
        with pytest.raises(CheckpointError, match="does not do") as refusal:
            architecture_of(HUB | {field: other})
        assert refusal.value.where == f"config.json: {field}"


def test_a_model_of_more_than_text_is_told_to_save_its_language_model():
    with pytest.raises(CheckpointError, match="family is not supported") as refusal:
        architecture_of({"model_type": "qwen2_5_vl", "text_config": HUB, "vision_config": {}})
    assert "its language model, saved alone" in refusal.value.hint


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_what_is_refused_with_a_reason_says_what_to_do(field):
    with pytest.raises(CheckpointError) as refusal:
        architecture_of(HUB | {field: {"quant_method": "gptq", "bits": 4}})
    assert (refusal.value.problem, refusal.value.hint) == REFUSED[field]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "absurd"),
        ({"num_hidden_layers": 10**400}, "not a finite number"),
        ({"vocab_size": 2**60}, "absurd"),
        ({"rms_norm_eps": "1e-06"}, "not a number"),
        ({"rms_norm_eps": math.nan}, "not a finite number"),
        ({"rms_norm_eps": -1e-6}, "absurd"),
        ({"rms_norm_eps": 0}, "absurd"),
        ({"rope_theta": math.inf}, "not a finite number"),
        ({"rope_theta": 0}, "absurd"),
        ({"rope_theta": "1e6"}, "not a number"),
        ({"tie_word_embeddings": "false"}, "neither true nor false"),
        ({"tie_word_embeddings": 0}, "neither true nor false"),
        ({"hidden_act": ["silu"]}, "not a text"),
        ({"head_dim": 0}, "not a positive whole number"),
        ({"head_dim": 7}, "odd number"),
        ({"num_key_value_heads": 4}, "shared out among the KV heads"),
        ({"num_attention_heads": 10, "num_key_value_heads": 5}, "shared out among the heads"),
        ({"rope_parameters": 5}, "not an object"),
        ({"rope_scaling": {"type": "default", "rope_theta": 1e4}}, "two RoPE thetas"),
        ({"rope_scaling": {"type": "default", "factor": 4.0}}, "field of RoPE"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "field of RoPE"),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn"}}, "two kinds of RoPE"),
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"type": "default"}},
            "twice, in two dialects",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "field of RoPE"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "another class"),
        ({"architectures": "Qwen2ForCausalLM"}, "another class"),
        ({"torch_dtype": "int8"}, "dtype"),
        ({"dtype": 5}, "dtype"),
        ({"sliding_window": 10**10, "use_sliding_window": True, "max_window_layers": 0}, "absurd"),
    ],
)
def test_an_absurd_value_is_refused_at_its_place(change, message):
    with pytest.raises(CheckpointError, match=message) as refusal:
        architecture_of(HUB | change)
    assert str(refusal.value.where).startswith("config.json: ")


def test_a_billion_layers_are_refused_at_once():
    started = time.monotonic()
    for change in ({"num_hidden_layers": 10**9}, {"num_hidden_layers": 10**9, "use_sliding_window": True}):
        with pytest.raises(CheckpointError):
            architecture_of(WINDOW | change)
    assert time.monotonic() - started < 0.5


def test_the_embedded_configs_have_no_field_that_is_unknown():
    for path in embedded.directory().glob("*/config.json"):
        assert architecture_of(read_config(path.parent)).layers > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"rope_theta": Infinity}', "no JSON"),
        ('{"x": "\\ud800"}', "surrogates"),
        ("[" * 50_000, "nested deeper"),
    ],
)
def test_a_config_of_two_meanings_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


@pytest.mark.record
@pytest.mark.parametrize("changes", [{}, {"use_sliding_window": True, "max_window_layers": 1}])
def test_whatever_transformers_writes_by_itself_is_known(tmp_path, changes):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **changes)
    theirs.save_pretrained(tmp_path / "diff")
    (tmp_path / "config.json").write_text(json.dumps(theirs.to_dict()))
    assert architecture_of(read_config(tmp_path)) == architecture_of(read_config(tmp_path / "diff"))
