"""Stage by stage gives what the plain model gives, bit for bit: nothing of the reference is ours."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.along import prompt_case
from harness.record.capture import Collector
from harness.record.environment import reproducible
from harness.record.model import Reference
from harness.record.noise import DTYPES
from harness.record.shell import arithmetic
from harness.record.unit import PRECISIONS

TEXTS = {"one token": "Hello", "nine tokens": "1 2 3 4 5", "many tokens": "the quick brown fox jumps. " * 12}


def layer_major(model: Reference, precision: str, ids: list[int]) -> dict[str, torch.Tensor]:
    """Every tap of one forward pass, stage by stage."""
    inputs = model.inputs(prompt_case("case", ids))
    state, taps = None, {}
    for name in model.stages:
        stage = model.load(name, (precision,))
        tap = Collector(stage.prefix, stage.kinds)
        state = stage.run(precision, state, inputs, tap)
        taps |= {f"{stage.prefix}.{kind}" if stage.prefix else kind: v for kind, v in tap.values.items()}
    return taps


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """The same weights where torch puts them: loaded, they lie as in the file, and kernels may round by that."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def plain(directory, precision: str, ids: list[int]):
    """`model(**inputs)`, as a user of transformers would run it."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    with arithmetic(precision), torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=DTYPES[precision], attn_implementation="eager"
        )
        return aligned(model).eval()(**inputs, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "window"])
def test_layer_major_equals_the_plain_model_bit_for_bit(tiny, window_checkpoint, name, precision, text):
    directory = {"tiny": tiny, "window": window_checkpoint}[name]
    ids = AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
    with reproducible():
        taps = layer_major(Reference(directory), precision, ids)
        expected = plain(directory, precision, ids)
    assert taps["logits"].dtype == expected.logits.dtype == DTYPES[precision]
    assert torch.equal(taps["logits"], expected.logits)
    for layer, attention in enumerate(expected.attentions):
        assert torch.equal(taps[f"layers.{layer}.probs"], attention)
    before_layers, *after_layers, final = expected.hidden_states
    assert torch.equal(taps["embed"], before_layers)
    for layer, hidden in enumerate(after_layers):  # the last layer's is not among them: transformers norms it
        assert torch.equal(taps[f"layers.{layer}.resid_post"], hidden)
    assert torch.equal(taps["final_norm"], final)


@pytest.mark.parametrize("name", ["tiny", "window"])
def test_weights_lie_where_torch_puts_them_however_they_are_stored(tiny, window_checkpoint, name):
    """What a kernel rounds may depend on alignment, and where numpy puts a tensor is chance."""
    model = Reference({"tiny": tiny, "window": window_checkpoint}[name])
    for path in ("model.layers.0", "model.layers.1", "model.norm", "lm_head"):
        for module in model.materialise(path, PRECISIONS).values():
            for parameter in module.parameters():
                assert parameter.data_ptr() % 64 == 0


def test_a_tied_head_is_the_embedding(shallow_copy):
    directory = shallow_copy(config={"tie_word_embeddings": True}, weights=lambda w: w.pop("lm_head.weight"))
    ids = [5, 300, 7]
    with reproducible():
        taps = layer_major(Reference(directory), "float32", ids)
        expected = plain(directory, "float32", ids)
    assert torch.equal(taps["logits"], expected.logits)


def test_the_causal_mask_is_there(tiny):
    """A custom attention function without a mask function of its own name would run without one, silently."""
    probs = layer_major(Reference(tiny), "float32", [1, 2, 3, 4])["layers.0.probs"]
    future = torch.ones(4, 4).triu(1).bool()
    assert (probs[..., future] == 0).all()
    assert (probs[..., ~future] > 0).all()


def test_one_stage_does_not_hold_the_weights_of_another(tiny):
    model = Reference(tiny)
    assert all(parameter.is_meta for parameter in model._skeleton.parameters())
    model.load("layers.0", ("float32",))
    assert all(parameter.is_meta for parameter in model._skeleton.parameters())
