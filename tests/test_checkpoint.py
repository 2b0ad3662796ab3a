"""Which weights a directory holds: one answer, or a refusal that says what is there. Needs no torch."""

from __future__ import annotations

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness import stored
from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError
from harness.record.parameters import parameter_table
from harness.stored import INDEX, SINGLE

INDEXED = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def weights(own_checkpoint):
    return load_file(own_checkpoint / SINGLE)


@pytest.fixture
def sharded(own_checkpoint, weights):
    """The checkpoint in two shards; returns the index, as a function that writes it anew with changes."""
    (own_checkpoint / SINGLE).unlink()
    half = len(weights) // 2
    homes = {name: INDEXED[number >= half] for number, name in enumerate(sorted(weights))}
    for file in INDEXED:
        save_file({name: weights[name] for name in weights if homes[name] == file}, own_checkpoint / file)

    def write(**changes):
        kept = {name: home for name, home in (homes | changes).items() if home is not None}
        (own_checkpoint / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": kept}))
        return homes

    write()
    return write


def refused(directory, match):
    with pytest.raises(CheckpointError, match=match) as refusal:
        Checkpoint(directory)
    assert refusal.value.hint and len(str(refusal.value)) < 1500
    return refusal.value


def test_shards_are_read_as_their_index_says(own_checkpoint, sharded, weights):
    checkpoint = Checkpoint(own_checkpoint)
    assert checkpoint.names == tuple(sorted(weights))
    assert all(np.array_equal(checkpoint.read(name), weights[name]) for name in weights)


def test_one_file_beside_shards_is_refused_whichever_of_them_a_reader_would_take(own_checkpoint, sharded, weights):
    save_file(weights, own_checkpoint / SINGLE)
    error = refused(own_checkpoint, "one file of weights and an index of shards")
    assert "transformers reads model.safetensors" in error.hint


def test_a_stale_index_beside_the_one_file_is_refused(own_checkpoint):
    (own_checkpoint / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00009.safetensors"}}))
    refused(own_checkpoint, "one file of weights and an index of shards")


def test_shards_that_do_not_hold_what_the_index_says_are_refused(own_checkpoint, sharded):
    first, *_ = sharded()
    sharded(**{first: INDEXED[1]})
    assert str(refused(own_checkpoint, "do not hold what their index says").where).endswith(first)
    sharded(**{first: None})
    refused(own_checkpoint, "do not hold what their index says")
    sharded(**{"model.more": INDEXED[0]})
    refused(own_checkpoint, "do not hold what their index says")
    sharded(**{"model.more": "model-00003-of-00003.safetensors"})
    refused(own_checkpoint, "has no such file")


def test_a_parameter_in_two_shards_is_refused(own_checkpoint, sharded, weights):
    first = min(weights)
    save_file(load_file(own_checkpoint / INDEXED[1]) | {first: weights[first]}, own_checkpoint / INDEXED[1])
    refused(own_checkpoint, "two shards hold one parameter")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "sub/model.safetensors"}}',
        '{"weight_map": {"a": "x\\u0000y"}}',
        '{"weight_map": {"a": "x", "a": "y"}}',
        '{"weight_map": ' + "[" * 9999,
    ],
)
def test_an_index_that_is_none_is_refused(own_checkpoint, content):
    (own_checkpoint / SINGLE).unlink()
    (own_checkpoint / INDEX).write_text(content)
    refused(own_checkpoint, "index of the shards cannot be read")


@pytest.mark.parametrize(
    "dtype", ["int16", "int8", "uint16", "int64", "bool", "uint8", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
)
def test_a_dtype_that_is_no_weights_is_refused_by_name(own_checkpoint, weights, dtype):
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].astype(np.float32).astype(dtype)
    save_file(weights, own_checkpoint / SINGLE)
    error = refused(own_checkpoint, "a dtype that no weight is read in")
    assert str(error.where).endswith(name) and error.found not in ("BF16", "F32")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16])
def test_every_dtype_of_weights_is_read_as_it_is(own_checkpoint, weights, dtype):
    save_file({name: tensor.astype(dtype) for name, tensor in weights.items()}, own_checkpoint / SINGLE)
    read = Checkpoint(own_checkpoint)
    assert {read.read(name).dtype for name in read.names} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", [SINGLE, INDEX, "config.json"])
def test_a_fifo_in_a_checkpoint_is_refused_and_not_waited_for(own_checkpoint, name):
    from harness.architecture import read_config

    (own_checkpoint / SINGLE).unlink()
    (own_checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(own_checkpoint / name)
    with pytest.raises(CheckpointError, match="a FIFO"):
        read_config(own_checkpoint)
        Checkpoint(own_checkpoint)


def test_a_damaged_file_is_refused(own_checkpoint):
    (own_checkpoint / SINGLE).write_bytes(b"\xff" * 100)
    refused(own_checkpoint, "cannot be read")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("pytorch_model.bin", "pickled weights"),
        ("pytorch_model-00001-of-00002.bin", "pickled weights"),
        ("model.fp16.safetensors", "weights of a variant"),
        ("model-00001-of-00002.safetensors", "shards without"),
        ("qwen2-q4_0.gguf", "GGUF"),
        ("flax_model.msgpack", "Flax"),
        ("tf_model.h5", "TensorFlow"),
        ("consolidated.safetensors", "layout of their authors"),
        ("weights.safetensors", "another name"),
        ("adapter_model.safetensors", "an adapter"),
        ("notes.txt", "Hugging Face format"),
    ],
)
def test_weights_of_another_form_are_recognised(own_checkpoint, file, says):
    (own_checkpoint / SINGLE).rename(own_checkpoint / file)
    assert says in refused(own_checkpoint, "has no such file").hint


def test_an_adapter_beside_the_weights_is_refused(own_checkpoint):
    (own_checkpoint / "adapter_config.json").write_text("{}")
    assert "merge" in refused(own_checkpoint, "an adapter beside its weights").hint


def test_what_transformers_passes_over_is_passed_over(own_checkpoint, weights):
    for name in (
        "pytorch_model.bin",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "model.fp16.safetensors",
    ):
        (own_checkpoint / name).write_bytes(b"no weights of this model")
    assert Checkpoint(own_checkpoint).names == tuple(sorted(weights))


def renamed(change):
    return lambda weights: {change(name): tensor for name, tensor in weights.items()}


def without_head(weights):
    return {name.removeprefix("model."): tensor for name, tensor in weights.items() if name != "lm_head.weight"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed(lambda name: f"_orig_mod.{name}"), "torch.compile"),
        (renamed(lambda name: f"module.{name}"), "DistributedDataParallel"),
        (renamed(lambda name: f"base_model.model.{name}"), "peft"),
        (renamed(lambda name: f"language_model.{name}"), "part of another"),
        (renamed(lambda name: name.replace("model.", "model.language_model.", 1)), "text and images"),
        (without_head, "lack the prefix 'model.'"),
        (renamed(lambda name: name.replace("model.", "transformer.")), "another family"),
        (renamed(lambda name: name.replace(".weight", ".qweight")), "quantised"),
        (renamed(lambda name: name.replace("_proj.weight", "_proj.lora_A.weight")), "adapter"),
        (renamed(lambda name: name.replace("up_proj", "upward")), "copy the checkpoint again"),
    ],
)
def test_parameters_under_other_names_are_recognised(own_checkpoint, weights, change, says):
    save_file(change(weights), own_checkpoint / SINGLE)
    with pytest.raises(CheckpointError, match="lacks a parameter") as refusal:
        Checkpoint(own_checkpoint).read("model.layers.0.mlp.up_proj.weight")
    assert says in refusal.value.hint


def test_a_directory_above_the_checkpoint_points_to_it(own_checkpoint, tmp_path):
    from harness.architecture import read_config

    with pytest.raises(CheckpointError, match=r"no config\.json") as refusal:
        read_config(tmp_path)
    assert str(own_checkpoint) in refusal.value.hint
    shutil.rmtree(own_checkpoint)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CheckpointError) as refusal:
        read_config(tmp_path)
    assert "GGUF" in refusal.value.hint


def test_a_large_tensor_is_hashed_and_looked_at_in_parts(own_checkpoint, weights, monkeypatch):
    name = "model.layers.0.mlp.up_proj.weight"
    whole = Checkpoint(own_checkpoint).table()
    monkeypatch.setattr(stored, "PART", 200)
    checkpoint = Checkpoint(own_checkpoint)
    assert len(list(checkpoint.parts(name))) > 5
    assert checkpoint.table() == whole
    weights[name][-2, 3] = np.inf
    save_file(weights, own_checkpoint / SINGLE)
    with pytest.raises(CheckpointError, match="not finite") as refusal:
        parameter_table(checkpoint, {one: checkpoint.shape(one) for one in checkpoint.names}, {})
    assert str(refusal.value.where).endswith(f"{name}, at [{len(weights[name]) - 2}, 3]")
