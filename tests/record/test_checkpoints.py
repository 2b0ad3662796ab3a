"""Parameters: none missing, none extra, none filled in; the form of a checkpoint changes nothing in the golden."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.corpus import Corpus
from harness.entries import Prompt
from harness.errors import CheckpointError
from harness.record.model import Reference
from harness.record.recorder import record
from harness.store import open_golden
from tests.families.formulas import forward, relative_rms
from tests.record.conftest import read_weights, write_weights

HELLO = Corpus((Prompt("hello", "Hello world", "short"),))


def golden_of(directory, out, corpus=HELLO):
    record(directory, "model", corpus, str(out))
    return open_golden(out)


def refused(directory, tmp_path, match):
    with pytest.raises(CheckpointError, match=match) as refusal:
        record(directory, "model", HELLO, str(tmp_path / "out.h5"))
    assert not list(tmp_path.glob("out*")), "nothing is left behind"
    return refusal.value


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.bias", "lm_head.weight", "model.norm.weight"])
def test_a_missing_parameter_is_named_and_never_filled_in(shallow_copy, tmp_path, name):
    error = refused(shallow_copy(weights=lambda w: w.pop(name)), tmp_path, "lacks a parameter")
    assert str(error.where).endswith(name)


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.o_proj.bias", "model.layers.2.input_layernorm.weight"])
def test_an_extra_parameter_is_named(shallow_copy, tmp_path, name):
    def add(weights):
        weights[name] = np.zeros(48, np.float32)

    error = refused(shallow_copy(weights=add), tmp_path, "no place for")
    assert str(error.where).endswith(name)


def test_a_parameter_of_another_shape_is_named(shallow_copy, tmp_path):
    def cut(weights):
        weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"][:-1]

    error = refused(shallow_copy(weights=cut), tmp_path, "shape")
    assert (error.expected, error.found) == ("(72, 48)", "(71, 48)")


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(shallow_copy, tmp_path):
    def same(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]

    tied = {"tie_word_embeddings": True}
    stored = shallow_copy("stored", config=tied, weights=same)
    absent = shallow_copy("absent", config=tied, weights=lambda w: w.pop("lm_head.weight"))
    with golden_of(stored, tmp_path / "a.h5") as a, golden_of(absent, tmp_path / "b.h5") as b:
        assert np.array_equal(a.tap("hello", "logits"), b.tap("hello", "logits"))
        embedding = read_weights(absent)["model.embed_tokens.weight"].astype(np.float64)
        np.testing.assert_allclose(
            a.tap("hello", "logits"), a.tap("hello", "final_norm") @ embedding.T, rtol=1e-12
        )


def test_a_tied_head_with_a_head_of_its_own_is_refused(shallow_copy, tmp_path):
    error = refused(shallow_copy(config={"tie_word_embeddings": True}), tmp_path, "ties the head")
    assert str(error.where).endswith("lm_head.weight")


def test_a_sharded_checkpoint_gives_the_same_golden(shallow_copy, tmp_path):
    single, sharded = shallow_copy("single"), shallow_copy("sharded")
    weights = read_weights(sharded)
    (sharded / "model.safetensors").unlink()
    shards = {
        name: f"model-0000{1 + index % 3}-of-00003.safetensors" for index, name in enumerate(sorted(weights))
    }
    for file in set(shards.values()):
        write_weights(sharded / file, {name: weights[name] for name in weights if shards[name] == file})
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with golden_of(single, tmp_path / "a.h5") as a, golden_of(sharded, tmp_path / "b.h5") as b:
        assert a.id == b.id


def test_both_dialects_of_config_record_the_same_arrays(shallow_copy, tmp_path):
    hub = shallow_copy("hub")
    rope = {"rope_theta": 1000000.0, "rope_type": "default"}
    modern = shallow_copy(
        "modern",
        config={"rope_theta": None, "torch_dtype": None, "rope_parameters": rope, "dtype": "bfloat16"},
    )
    with golden_of(hub, tmp_path / "a.h5") as a, golden_of(modern, tmp_path / "b.h5") as b:
        assert "rope_theta" in a.manifest.model.config and "rope_theta" not in b.manifest.model.config
        assert a.manifest.arrays == b.manifest.arrays


def test_theta_reaches_the_reference(shallow_copy, tmp_path):
    """transformers 5 keeps theta elsewhere than the hub does: read from the wrong place it is 1e4, silently."""
    with (
        golden_of(shallow_copy("a"), tmp_path / "a.h5") as a,
        golden_of(shallow_copy("b", config={"rope_theta": 1e4}), tmp_path / "b.h5") as b,
    ):
        assert np.array_equal(a.tap("hello", "layers.0.q"), b.tap("hello", "layers.0.q"))
        assert not np.array_equal(a.tap("hello", "layers.0.q_rope"), b.tap("hello", "layers.0.q_rope"))


def test_phase_1_facts_are_in_the_manifest(tiny, tmp_path):
    with golden_of(tiny, tmp_path / "a.h5") as golden:
        model = golden.manifest.model
        weights = read_weights(tiny)
        assert model.config == json.loads((tiny / "config.json").read_text())
        assert set(model.parameters) == set(weights)
        assert model.parameter_count == sum(tensor.size for tensor in weights.values())
        assert {name.split("self_attn.")[1] for name in model.biases} == {
            "q_proj.bias",
            "k_proj.bias",
            "v_proj.bias",
        }
        assert len(model.biases) == 12
        entry = model.parameters["model.layers.0.mlp.up_proj.weight"]
        assert (entry.shape, entry.dtype) == ((72, 48), "bfloat16")


def test_float32_weights_keep_their_last_bits(shallow_copy, tmp_path):
    def perturb(weights):
        for name in weights:
            weights[name] = weights[name].astype(np.float32) * np.float32(1 + 2**-20)

    directory = shallow_copy(weights=perturb)
    with golden_of(directory, tmp_path / "a.h5") as golden:
        config = json.loads((directory / "config.json").read_text())
        expected = forward(read_weights(directory), config, golden.case("hello").input_ids[0].tolist())
        for tap in ("embed", "layers.1.resid_post", "logits"):
            assert relative_rms(golden.tap("hello", tap), expected[tap]) < 5e-15


def test_stages_are_in_the_order_of_the_layers(tiny):
    assert Reference(tiny).stages == ("embed", "layers.0", "layers.1", "layers.2", "layers.3", "head")
