"""A port gets one config and one set of parameters, whichever dialect the checkpoint is written in."""

from __future__ import annotations

import json
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401 - teaches bfloat16 to numpy
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.architecture import architecture_of, read_config
from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError
from harness.families.windows import FULL, SLIDING
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.dialect import Parameters, in_both_dialects
from harness.run.loading import load_from, load_port
from harness.run.question import Question
from harness.run.tapping import no_tap
from tests import documents

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def of_transformers_5(config):
    """The same config as transformers 5 writes it."""
    old = ("rope_theta", "torch_dtype", "max_window_layers")
    new = {name: value for name, value in config.items() if name not in old}
    slides = [window is not None for window in architecture_of(config).windows]
    types_ = [SLIDING if sliding else FULL for sliding in slides]
    rope = {"rope_theta": config["rope_theta"], "rope_type": "default"}
    return new | {"rope_parameters": rope, "dtype": config["torch_dtype"], "layer_types": types_}


# What their weights are stored in.
STORED = {"qwen2-tiny": "bfloat16", "qwen2-window": "float32"}


@pytest.fixture(params=STORED)
def name(request):
    return request.param


@pytest.fixture
def config(name, checkpoint):
    return read_config(checkpoint.parent / name)


def test_both_dialects_give_a_port_the_same_fields(name, config):
    hub, new = in_both_dialects(config), in_both_dialects(of_transformers_5(config))
    assert hub == new
    assert hub["rope_theta"] == hub["rope_parameters"]["rope_theta"] == 1e6
    assert hub["dtype"] == hub["torch_dtype"] == STORED[name]
    assert architecture_of(hub) == architecture_of(config)


def test_a_field_that_is_there_stays_as_it_is(config):
    assert config.items() <= in_both_dialects(config).items()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("llama3", {"attention_bias": False, "mlp_bias": False}),
        ("gemma3", {"tie_word_embeddings": True}),
        ("gpt-neox", {"num_key_value_heads": 4, "attention_bias": True}),
    ],
)
def test_defaults_of_the_family_are_written_out_as_the_new_dialect_does(model, said, checkpoint):
    config = read_config(checkpoint.parent / model)
    assert not said.keys() & config.keys()
    assert said.items() <= in_both_dialects(config).items()
    assert "mlp_bias" not in in_both_dialects(read_config(checkpoint))  # a field that its family does not have


@pytest.mark.parametrize("model", ["llama3", "gemma3"])
def test_theta_is_beside_the_scaling_in_the_hubs_dialect_and_in_it_in_the_new_one(model, checkpoint):
    config = read_config(checkpoint.parent / model)
    new = {name: value for name, value in config.items() if name not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = in_both_dialects(config)["rope_parameters"]
    both = in_both_dialects(new)
    assert both["rope_scaling"] == config["rope_scaling"]
    assert both["rope_theta"] == config["rope_theta"]
    assert both["rope_parameters"] == new["rope_parameters"]


@pytest.mark.parametrize(
    "wrong", [{"rope_parameters": {"rope_theta": 1e4}}, {"dtype": "float32"}, {"layer_types": [SLIDING] * 4}]
)
def test_a_config_that_contradicts_itself_is_refused(checkpoint, wrong):
    with pytest.raises(CheckpointError, match=r"two|switches|twice") as caught:
        in_both_dialects({**read_config(checkpoint), **wrong})
    assert "hint: " in str(caught.value)


@pytest.fixture
def tied(own_checkpoint):
    """A checkpoint of transformers 5 whose head is tied, and not in the file."""
    config = of_transformers_5(read_config(own_checkpoint)) | {"tie_word_embeddings": True}
    (own_checkpoint / "config.json").write_text(json.dumps(config))
    weights = load_file(own_checkpoint / "model.safetensors")
    del weights[HEAD]
    save_file(weights, own_checkpoint / "model.safetensors")
    return own_checkpoint


def test_a_tied_head_is_a_parameter_like_any_other(tied):
    found = Parameters(tied, read_config(tied))
    assert set(found) == {*Checkpoint(tied).names, HEAD}
    assert len(found) == len(list(found))
    assert np.array_equal(found[HEAD], found[EMBEDDING])
    with pytest.raises(KeyError):
        found["no.such.weight"]


def test_a_head_that_is_not_tied_is_read_as_it_is(checkpoint):
    found = Parameters(checkpoint, read_config(checkpoint))
    assert not np.array_equal(found[HEAD], found[EMBEDDING])


def test_a_tied_head_that_the_file_has_otherwise_is_refused(own_checkpoint):
    with pytest.raises(CheckpointError, match="another head"):
        Parameters(own_checkpoint, read_config(own_checkpoint) | {"tie_word_embeddings": True})
    weights = load_file(own_checkpoint / "model.safetensors")
    save_file(weights | {HEAD: weights[EMBEDDING]}, own_checkpoint / "model.safetensors")
    Parameters(own_checkpoint, read_config(own_checkpoint) | {"tie_word_embeddings": True})


def test_a_port_is_given_both_dialects(tied):
    given = []

    class Port:
        @classmethod
        def load(cls, checkpoint_dir, config, dtype, mesh):
            given.append(config)
            return types.SimpleNamespace(forward=lambda *args: None)

    load_from(Port, "here:Port", tied, read_config(tied), "float32")
    assert given[0]["rope_theta"] == 1e6
    assert given[0]["rope_parameters"]["rope_theta"] == 1e6


BY_HAND = documents.port("by hand")
FROM_CHECKPOINT = (
    "        checkpoint = Checkpoint(checkpoint_dir)\n"
    "        return cls(config, {name: jnp.asarray(checkpoint.read(name).astype(dtype)) "
    "for name in checkpoint.names})"
)
FROM_PARAMETERS = (
    "        weights = Parameters(checkpoint_dir, config)\n"
    "        return cls(config, {name: jnp.asarray(value.astype(dtype)) for name, value in weights.items()})"
)


@pytest.fixture
def by_hand(monkeypatch):
    """The README's port, its parameters read as ports read them."""
    code = BY_HAND.replace(FROM_CHECKPOINT, FROM_PARAMETERS).replace(
        "from harness.checkpoint import Checkpoint", "from harness.run.dialect import Parameters"
    )
    assert "Parameters(checkpoint_dir, config)" in code
    module = types.ModuleType("port_of_the_readme")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:Port"


def test_the_readmes_port_runs_on_a_checkpoint_of_transformers_5(golden_path, own_checkpoint, by_hand):
    (own_checkpoint / "config.json").write_text(json.dumps(of_transformers_5(read_config(own_checkpoint))))
    question = Question(precisions=("float32",), cases=("digits",))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert check(golden_path, own_checkpoint, by_hand, question).verdict == "match"


def test_the_readmes_port_has_the_head_of_a_tied_checkpoint(tied, by_hand):
    config, dtype = read_config(tied), jnp.dtype("float32")
    ids = jnp.asarray([[5, 7, 11]], jnp.int32)
    call = (ids, jnp.arange(3, dtype=jnp.int32)[None], jnp.ones((1, 3), bool), None, no_tap)
    port = load_port(by_hand, tied, config, dtype)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        logits, _ = port.forward(*call)
    expected, _ = Decoder.load(tied, config, dtype).forward(*call)
    assert np.allclose(logits, expected, rtol=1e-4, atol=1e-4)
