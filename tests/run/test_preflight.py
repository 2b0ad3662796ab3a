"""Phases 1 and 2: another config, other weights, other token ids are refused before anything runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.errors import CheckpointError, CorpusError
from harness.run.check import check
from harness.run.question import Question

QUESTION = Question(precisions=("float32",), cases=("digits",))


def change_config(checkpoint, **changes):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(checkpoint, change):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(golden_path, checkpoint, kind):
    with pytest.raises(kind) as caught:
        check(golden_path, checkpoint, question=QUESTION)
    assert "hint:" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("rms_norm_eps", 1e-5, "norm.eps"),
        ("rope_theta", 10000.0, "ropes.0.theta"),
        ("num_key_value_heads", 3, "kv_heads"),
        ("num_hidden_layers", 3, "layers"),
        ("tie_word_embeddings", True, "tied_head"),
        ("hidden_act", "gelu", "activation"),
    ],
)
def test_a_wrong_config_field_is_refused_by_name(golden_path, own_checkpoint, field, value, name):
    change_config(own_checkpoint, **{field: value})
    message = refusal(golden_path, own_checkpoint, CheckpointError)
    assert "another architecture" in message
    assert f"config.json: {name}" in message


def test_the_other_dialect_of_the_same_config_passes(golden_path, own_checkpoint):
    change_config(
        own_checkpoint,
        rope_theta=None,
        torch_dtype=None,
        dtype="bfloat16",
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    assert check(golden_path, own_checkpoint, question=QUESTION).verdict == "match"


def test_one_changed_weight_is_refused(golden_path, own_checkpoint):
    def nudge(tensors):
        bias = tensors["model.layers.3.self_attn.k_proj.bias"]
        bias[0] = np.nextafter(bias[0], bias.dtype.type(np.inf))

    change_weights(own_checkpoint, nudge)
    message = refusal(golden_path, own_checkpoint, CheckpointError)
    assert "another sha256" in message
    assert "model.layers.3.self_attn.k_proj.bias" in message


def test_another_dtype_of_the_same_values_is_refused(golden_path, own_checkpoint):
    change_weights(
        own_checkpoint, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].astype(np.float32)})
    )
    assert "another dtype" in refusal(golden_path, own_checkpoint, CheckpointError)


def test_a_missing_parameter_is_refused_and_nothing_takes_its_place(golden_path, own_checkpoint):
    change_weights(own_checkpoint, lambda t: t.pop("lm_head.weight"))
    message = refusal(golden_path, own_checkpoint, CheckpointError)
    assert "lacks a parameter" in message
    assert "lm_head.weight" in message


def test_an_extra_parameter_is_refused(golden_path, own_checkpoint):
    change_weights(
        own_checkpoint, lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(48, np.float32)})
    )
    message = refusal(golden_path, own_checkpoint, CheckpointError)
    assert "a parameter that the golden does not know" in message
    assert "o_proj.bias" in message


def test_no_checkpoint_at_all_is_refused(golden_path, tmp_path):
    assert "--weights" in refusal(golden_path, tmp_path / "none", CheckpointError)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{garbage", None])
def test_damaged_or_missing_weights_are_refused(golden_path, own_checkpoint, content):
    path = own_checkpoint / "model.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refusal(golden_path, own_checkpoint, CheckpointError)


def test_a_sharded_checkpoint_is_the_same_checkpoint(golden_path, own_checkpoint):
    path = own_checkpoint / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, own_checkpoint / shard)
    path.unlink()
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (own_checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check(golden_path, own_checkpoint, question=QUESTION).verdict == "match"
    (own_checkpoint / "b.safetensors").unlink()
    assert "b.safetensors" in refusal(golden_path, own_checkpoint, CheckpointError)


def test_a_tokenizer_that_gives_other_ids_is_refused_at_the_first_other_id(golden_path, own_checkpoint):
    path = own_checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["1"], vocab["2"] = vocab["2"], vocab["1"]
    path.write_text(json.dumps(tokenizer))
    message = refusal(golden_path, own_checkpoint, CorpusError)
    assert "case digits, token 0 (another tokenizer.json)" in message


def test_a_tokenizer_file_that_gives_the_same_ids_passes(golden_path, own_checkpoint):
    path = own_checkpoint / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert check(golden_path, own_checkpoint, question=QUESTION).verdict == "match"


def test_a_missing_tokenizer_is_refused(golden_path, own_checkpoint):
    (own_checkpoint / "tokenizer.json").unlink()
    assert "tokenizer cannot be read" in refusal(golden_path, own_checkpoint, CorpusError)
