"""What is recorded is what transformers computes: where two readers of a checkpoint differ, nothing is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from transformers import AutoModelForCausalLM

from harness.architecture import architecture_of, family_of, read_config
from harness.corpus import Corpus
from harness.entries import Generation, Offset, Prompt
from harness.errors import CheckpointError, CorpusError
from harness.record import built, cases
from harness.record.cases import case_of, check_size
from harness.record.model import Reference, _built
from harness.record.recorder import record
from harness.record.tokens import tokenize
from tests.record.conftest import read_weights, write_weights

HELLO = Corpus((Prompt("hello", "Hello world", "short"),))


def refused(directory, tmp_path, match, error=CheckpointError):
    with pytest.raises(error, match=match) as refusal:
        record(directory, "model", HELLO, str(tmp_path / "out.h5"))
    assert not list(tmp_path.glob("out*")), "nothing is left behind"
    assert refusal.value.hint and len(str(refusal.value)) < 1500
    return refusal.value


def disagreement(directory, change=lambda model: None, turned=1):
    """What is said of a model that was changed after it was built."""
    config = read_config(directory)
    model, rotary = _built(directory, torch.float32), Reference(directory).rotary("float64")
    change(model)
    rotary.inv_freq = rotary.inv_freq * turned
    built.refuse_disagreement(family_of(config), architecture_of(config), model, rotary)


def test_what_is_built_is_what_was_read(tiny, window_checkpoint):
    for directory in (tiny, window_checkpoint):
        disagreement(directory)


def first(model, path):
    return model.model.layers[0].get_submodule(path)


@pytest.mark.parametrize(
    ("fact", "change"),
    [
        ("layers", lambda model: model.model.layers.append(model.model.layers[0])),
        ("the shape of model.norm.weight", lambda model: setattr(model.model, "norm", torch.nn.LayerNorm(3))),
        (
            "the shape of model.layers.0.self_attn.o_proj.bias",
            lambda model: setattr(first(model, "self_attn"), "o_proj", torch.nn.Linear(24, 24, device="meta")),
        ),
        ("eps of final_norm", lambda model: setattr(model.model.norm, "variance_epsilon", 1e-5)),
        (
            "eps of layers.0.mlp_norm",
            lambda model: setattr(first(model, "post_attention_layernorm"), "variance_epsilon", 1),
        ),
        ("the activation of layers.0", lambda model: setattr(first(model, "mlp"), "act_fn", torch.nn.GELU())),
        ("tied_head", lambda model: setattr(model.config, "tie_word_embeddings", True)),
        ("the window of layers.1", lambda model: setattr(model.model.layers[1].self_attn, "sliding_window", 7)),
        ("the window of layers.1", lambda model: model.config.layer_types.__setitem__(1, "full_attention")),
        ("the scale of the scores of layers.0", lambda model: setattr(first(model, "self_attn"), "scaling", 1.0)),
    ],
)
def test_a_fact_in_which_transformers_differs_is_named(window_checkpoint, fact, change):
    with pytest.raises(CheckpointError, match="differently than the checking side") as refusal:
        disagreement(window_checkpoint, change)
    assert refusal.value.where == f"config.json: {fact}"


def test_frequencies_that_are_not_thetas_are_refused(tiny):
    with pytest.raises(CheckpointError, match="differently") as refusal:
        disagreement(tiny, turned=0.25)
    assert refusal.value.where == "config.json: RoPE's frequencies of layers.0"


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": None},  # kept as null, which transformers does not take
        {"num_hidden_layers": 4.0},
        {"attention_dropout": "much"},
        {"max_position_embeddings": "many"},
        {"pad_token_id": 10**6},
        {"id2label": 5},
    ],
)
def test_what_transformers_cannot_build_is_refused_in_one_line(tiny, tmp_path, changes):
    directory = configured(tiny, tmp_path, changes)
    error = refused(directory, tmp_path, "^transformers cannot build a model from this config: .")
    assert "\n" not in error.problem
    assert error.where == str(directory / "config.json")


def test_sizes_that_no_machine_holds_are_refused_before_anything_of_them_is_made(tiny, tmp_path):
    sizes = {"hidden_size": 2**30, "intermediate_size": 2**31 - 1, "head_dim": 8}
    error = refused(configured(tiny, tmp_path, sizes), tmp_path, "does not have the shape that the config implies")
    assert (error.expected, error.found) == (f"(608, {2**30})", "(608, 48)")


def configured(tiny, tmp_path, changes):
    """A copy of the embedded checkpoint with other fields in its config."""
    directory = shutil.copytree(tiny, tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_a_stray_file_beside_shards_is_what_transformers_would_read_so_nothing_is(shallow_copy, tmp_path):
    """The two sets of weights give other logits; before, the golden had those of the shards."""
    directory = shallow_copy()
    weights = read_weights(directory)
    write_weights(directory / "shard.safetensors", {name: 2 * tensor for name, tensor in weights.items()})
    index = {"weight_map": dict.fromkeys(weights, "shard.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    assert torch.equal(
        theirs.lm_head.weight.detach().view(torch.int16),
        torch.from_numpy(weights["lm_head.weight"].view(np.int16)),
    )
    refused(directory, tmp_path, "one file of weights and an index")


def test_layers_that_are_not_stored_are_refused_before_a_model_of_that_many_is_built(
    shallow_copy, tmp_path, monkeypatch
):
    directory = shallow_copy(config={"num_hidden_layers": 1000})
    monkeypatch.setattr("harness.record.model._built", lambda _: pytest.fail("it was built"))
    assert str(refused(directory, tmp_path, "lacks a parameter").where).endswith("layers.2.input_layernorm.weight")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_a_weight_that_is_not_finite_at_every_precision_is_refused_at_its_place(shallow_copy, tmp_path, value):
    def spoil(weights):
        name = "model.layers.1.mlp.up_proj.weight"
        weights[name] = weights[name].astype(np.float32)
        weights[name][3, 5] = value

    error = refused(shallow_copy(weights=spoil), tmp_path, "not finite")
    assert str(error.where).endswith("model.layers.1.mlp.up_proj.weight, at [3, 5]")


def test_a_weight_of_another_dtype_is_refused(shallow_copy, tmp_path):
    for dtype in (np.int16, ml_dtypes.float8_e4m3fn):

        def change(weights, dtype=dtype):
            name = "model.layers.1.mlp.up_proj.weight"
            weights[name] = weights[name].astype(dtype)

        refused(shallow_copy(f"as-{np.dtype(dtype).name}", weights=change), tmp_path, "no weight is read in")


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "model.safetensors"]
)
def test_a_fifo_is_refused_and_not_waited_for(tiny, tmp_path, file):
    directory = shutil.copytree(tiny, tmp_path / "copy")
    (directory / file).unlink(missing_ok=True)
    os.mkfifo(directory / file)
    refused(directory, tmp_path, "a FIFO", (CheckpointError, CorpusError))


def test_code_that_a_tokenizer_brings_is_not_asked_about(tiny, tmp_path):
    directory = shutil.copytree(tiny, tmp_path / "copy")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    with contextlib.suppress(CorpusError):  # transformers' own class for the family is as good
        assert tokenize(directory, HELLO, HELLO.entries, 608).ids == tokenize(tiny, HELLO, HELLO.entries, 608).ids


def test_a_lone_surrogate_is_refused(tiny):
    corpus = Corpus((Prompt("half", "\ud800", "no text"),))
    with pytest.raises(CorpusError, match="cannot be tokenized") as refusal:
        tokenize(tiny, corpus, corpus.entries, 608)
    assert refusal.value.where == "prompt half"


def test_a_pad_token_outside_the_vocabulary_is_refused(tiny):
    corpus = Corpus((Prompt("hello", "Hello", "short"),))
    with pytest.raises(CorpusError, match="outside the vocabulary"):
        tokenize(tiny, corpus, corpus.entries, 600)


def test_positions_do_not_wrap():
    entry = Offset("far", "text", ((0, 0), (1, cases.FARTHEST - 1)), "why")
    assert case_of(entry, {"far": [1, 2, 3]}, {}, 0).positions.tolist() == [
        [0, cases.FARTHEST - 1, cases.FARTHEST]
    ]
    with pytest.raises(CorpusError, match="farther than float32 can count"):
        case_of(entry, {"far": [1, 2, 3, 4]}, {}, 0)


def test_a_case_that_no_machine_holds_is_refused_before_it_is_run():
    long = case_of(Prompt("long", "text", "why"), {"long": [0] * 10_000_000}, {}, 0)
    with pytest.raises(CorpusError, match="do not fit into memory"):
        check_size(long, heads=6)
    check_size(case_of(Generation("g", "text", tokens=3), {"g": [1]}, {"g": [1, 2, 3]}, 0), heads=6)
