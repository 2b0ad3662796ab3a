"""Hooks: every tap exactly once, copies, gone after the pass; in replay each operation sees golden inputs."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from torch.nn import functional as F  # noqa: N812 - its customary name
from transformers.models.qwen2 import modeling_qwen2

from harness.along import prompt_case
from harness.errors import RecordError
from harness.families.graph import taps_of
from harness.record.capture import Collector
from harness.record.model import Reference
from harness.record.promote import Float64Mode

IDS = [1, 2, 3, 4, 5]


@pytest.fixture
def model(tiny):
    return Reference(tiny)


@pytest.fixture
def layer(model):
    return model.load("layers.1", ("float64",))


def run(model, stage, tap):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, len(IDS), model.arch.hidden, dtype=torch.float64, generator=generator)
    return stage.run("float64", state, model.inputs(prompt_case("case", IDS)), tap)


def test_every_tap_of_the_grammar_has_the_shape_of_its_dimensions(model, layer):
    tap = Collector("layers.1", layer.kinds)
    run(model, layer, tap)
    sizes = model.arch.sizes(1, len(IDS))
    shapes = {t.kind: t.shape(sizes) for t in taps_of(model.arch) if t.stage == "layers.1"}
    assert {kind: tuple(value.shape) for kind, value in tap.values.items()} == shapes


def test_a_tap_that_fires_twice_is_refused():
    tap = Collector("layers.3", ())
    tap("q", torch.zeros(1))
    with pytest.raises(RecordError, match="fired twice") as refusal:
        tap("q", torch.zeros(1))
    assert refusal.value.where == "layers.3.q"


def test_a_tap_that_never_fires_is_refused():
    tap = Collector("", ())
    with pytest.raises(RecordError, match="never fired") as refusal:
        tap.finish(["logits"])
    assert refusal.value.where == "logits"
    assert "pinned version" in refusal.value.hint


def test_model_code_without_dropout_after_the_softmax_is_refused(model, layer, monkeypatch):
    """`probs` is taken where dropout stands. Model code that drops it must not be recorded without `probs`."""
    monkeypatch.setattr(F, "dropout", lambda x, **_: x)
    with pytest.raises(RecordError, match="never fired") as refusal:
        run(model, layer, Collector("layers.1", layer.kinds))
    assert refusal.value.where == "layers.1.probs"


def test_model_code_with_a_second_dropout_is_refused(model, layer, monkeypatch):
    def attention(module, query, key, value, mask, scaling, **_):
        weights = F.dropout(F.softmax(query @ key.repeat_interleave(3, 1).transpose(2, 3), -1), 0.0, False)
        return F.dropout(weights, 0.0, False) @ value.repeat_interleave(3, 1), weights

    monkeypatch.setattr(modeling_qwen2, "eager_attention_forward", attention)
    with pytest.raises(RecordError, match="fired twice") as refusal:
        run(model, layer, Collector("layers.1", layer.kinds))
    assert refusal.value.where == "layers.1.probs"


def test_a_recorded_value_is_a_copy(model, layer, monkeypatch):
    """An operation downstream may write in place: what was recorded must not change with it."""
    tap = Collector("layers.1", layer.kinds)
    run(model, layer, tap)
    before = tap.values["act"].clone()
    forward = modeling_qwen2.Qwen2MLP.forward

    def in_place(self, x):
        def overwrite(module, args, out):
            args[0].zero_()

        handle = self.down_proj.register_forward_hook(overwrite)
        try:
            return forward(self, x)
        finally:
            handle.remove()

    monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", in_place)
    again = Collector("layers.1", layer.kinds)
    run(model, layer, again)
    assert torch.equal(again.values["act"], before)


def test_no_hook_stays_after_a_pass_even_one_that_fails(model, layer):
    class Failing(Collector):
        def __call__(self, kind, value):
            if kind == "act":
                raise ZeroDivisionError
            return super().__call__(kind, value)

    with pytest.raises(ZeroDivisionError):
        run(model, layer, Failing("layers.1", layer.kinds))
    for module in layer._modules["float64"].modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    run(model, layer, Collector("layers.1", layer.kinds))


def test_in_replay_every_operation_works_on_replaced_inputs(model, layer):
    """All taps are replaced by unrelated numbers; each tap must then follow from its inputs' replacements."""
    plain = Collector("layers.1", layer.kinds)
    run(model, layer, plain)
    generator = torch.Generator().manual_seed(1)
    given = {
        kind: torch.randn(value.shape, dtype=torch.float64, generator=generator)
        for kind, value in plain.values.items()
    }
    tap = Collector("layers.1", layer.kinds, given)
    out = run(model, layer, tap)
    module = layer._modules["float64"]
    attention, mlp = module.self_attn, module.mlp

    def agree(kind, expected):
        torch.testing.assert_close(tap.values[kind], expected.reshape(tap.values[kind].shape), rtol=0, atol=1e-12)

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.arch.norm.eps) * weight

    agree("attn_norm", plain.values["attn_norm"])  # its input is what comes into the stage
    for kind, projection in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
        agree(kind, F.linear(given["attn_norm"], projection.weight, projection.bias))
    with Float64Mode():
        cos, sin = model.rotary("float64")(given["q"], torch.arange(len(IDS))[None])
    for kind in ("q", "k"):
        half = given[kind].chunk(2, -1)
        turned = torch.cat((-half[1], half[0]), -1)
        agree(f"{kind}_rope", given[kind] * cos[:, :, None] + turned * sin[:, :, None])
    keys, values = (given[kind].repeat_interleave(3, 2) for kind in ("cache_k", "cache_v"))
    agree("cache_k", given["k_rope"])  # without a cache, what attention reads is what was computed
    agree("cache_v", given["v"])
    scores = torch.einsum("bqhd,bkhd->bhqk", given["q_rope"], keys) / model.arch.head_dim**0.5
    scores = scores.masked_fill(torch.ones(len(IDS), len(IDS)).triu(1).bool(), -torch.inf)
    agree("probs", scores.softmax(-1))
    agree("context", torch.einsum("bhqk,bkhd->bqhd", given["probs"], values))
    agree("attn_out", F.linear(given["context"].flatten(2), attention.o_proj.weight))
    agree("mlp_norm", norm(given["resid_mid"], module.post_attention_layernorm.weight))
    agree("gate", F.linear(given["mlp_norm"], mlp.gate_proj.weight))
    agree("up", F.linear(given["mlp_norm"], mlp.up_proj.weight))
    agree("act", F.silu(given["gate"]) * given["up"])
    agree("mlp_out", F.linear(given["act"], mlp.down_proj.weight))
    agree("resid_post", given["resid_mid"] + given["mlp_out"])  # the residual path got the replacement too
    assert torch.equal(out, given["resid_post"])
    state = plain.values["resid_mid"] - plain.values["attn_out"]
    agree("resid_mid", state + given["attn_out"])
