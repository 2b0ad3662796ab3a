import json

import pytest

from harness.architecture import architecture_of, difference, read_config
from harness.errors import CheckpointError

HUB = {
    "model_type": "qwen2",
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "vocab_size": 400,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
TRANSFORMERS_5 = {
    **{k: v for k, v in HUB.items() if k not in ("rope_theta", "torch_dtype")},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "dtype": "bfloat16",
}


def test_both_dialects_describe_one_architecture():
    assert architecture_of(HUB) == architecture_of(TRANSFORMERS_5)
    assert architecture_of(HUB).ropes[0].theta == 1e6
    assert architecture_of(HUB).head_dim == 8
    assert difference(HUB, TRANSFORMERS_5) == []


def test_a_config_without_theta_is_refused_not_defaulted():
    config = {k: v for k, v in HUB.items() if k != "rope_theta"}
    with pytest.raises(CheckpointError, match="says nowhere what the RoPE theta is"):
        architecture_of(config)


def test_two_thetas_that_disagree_are_refused():
    with pytest.raises(CheckpointError, match="two RoPE thetas"):
        architecture_of({**TRANSFORMERS_5, "rope_theta": 10000.0})


@pytest.mark.parametrize("field", [f for f in HUB if f not in ("torch_dtype", "use_sliding_window", "model_type")])
def test_every_missing_field_is_refused_by_name(field):
    config = {k: v for k, v in HUB.items() if k != field}
    with pytest.raises(CheckpointError) as caught:
        architecture_of(config)
    assert field in str(caught.value)
    assert "hint:" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bloom"}, "family is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "lacks a field"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "RoPE scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, "RoPE scaling"),
        ({"hidden_size": "48"}, "not a number"),
        ({"hidden_size": 0}, "not a positive whole number"),
    ],
)
def test_what_nothing_here_computes_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        architecture_of({**HUB, **change})


def test_a_difference_names_the_field_and_both_values():
    assert difference(HUB, {**HUB, "rms_norm_eps": 1e-5}) == [("norm.eps", 1e-6, 1e-5)]
    assert difference(HUB, {**HUB, "rope_theta": 1e4})[0] == ("ropes.0.theta", 1e6, 1e4)


def test_an_explicit_head_dim_wins_over_the_quotient():
    assert architecture_of({**HUB, "head_dim": 16}).head_dim == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no config.json"), ("{", "cannot be read"), ("[]", "not a JSON object")],
)
def test_an_unreadable_config_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(HUB))
    assert read_config(tmp_path) == HUB
