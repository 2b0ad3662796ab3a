"""A case step by step, as a user of transformers runs it, and layer by layer, as it is recorded."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from harness.along import Case
from harness.families.graph import taps_of
from harness.record import calls
from harness.record.model import Reference
from harness.record.noise import DTYPES
from harness.record.shell import arithmetic
from harness.taps import CACHED, DIMS
from tests.record.test_layer_major import aligned


def layer_major(model: Reference, precision: str, case: Case, again: bool = False) -> dict[str, torch.Tensor]:
    """Every tap; where it is run again, of a pass that is given what the first one kept."""
    inputs, state, found = replace(model.inputs(case), kept={}), None, {}
    for name in model.stages:
        stage = model.load(name, (precision,))
        taps = [
            tap for tap in taps_of(model.arch) if (tap.stage == name if stage.prefix else tap.kind in stage.kinds)
        ]
        for _ in range(1 + again):
            done = calls.run_calls(stage, inputs, case.spans, taps, precision, state, {})
        state = done.out
        found |= {tap.name: done.values[tap.kind] for tap in taps}
    return found


@functools.cache
def load(directory, precision):
    """transformers' own model, loaded once for all cases; nobody changes it."""
    settings = {"dtype": DTYPES[precision], "attn_implementation": "eager", "experts_implementation": "eager"}
    with arithmetic(precision):
        return aligned(AutoModelForCausalLM.from_pretrained(directory, **settings)).eval()


def plain(directory, precision: str, case: Case):
    """Step by step, as a user of transformers would: (outputs of every call, the cache at the end)."""
    ids, positions, mask = (torch.from_numpy(a).long() for a in (case.input_ids, case.positions, case.mask))
    cache = DynamicCache() if len(case.spans) > 1 else None
    model, outputs = load(directory, precision), []
    with arithmetic(precision), torch.inference_mode():
        for span in case.spans:
            out = model(
                input_ids=ids[:, span],
                position_ids=positions[:, span],
                attention_mask=mask[:, : span.stop],
                past_key_values=cache,
                use_cache=cache is not None,
                output_hidden_states=True,
                output_attentions=True,
            )
            outputs += [out]
    return outputs, cache


def assert_equal_bits(taps, the: Case, outputs, cache) -> None:
    """What was recorded layer by layer is what the calls gave, and what the cache holds at the end."""
    for span, out in zip(the.spans, outputs, strict=True):
        assert torch.equal(taps["logits"][:, span], out.logits)
        for layer, probs in enumerate(out.attentions):
            recorded = taps[f"layers.{layer}.probs"][:, :, span]
            assert torch.equal(recorded[..., : span.stop], probs)
            assert not recorded[..., span.stop :].any()
        for layer, hidden in enumerate(out.hidden_states[1:-1]):
            assert torch.equal(taps[f"layers.{layer}.resid_post"][:, span], hidden)
    if cache is not None:
        for layer, held in enumerate(cache.layers):
            kinds = [kind for kind in CACHED if f"layers.{layer}.{kind}" in taps]  # keys, or a latent, come first
            for kind, value in zip(kinds, (held.keys, held.values), strict=True):
                own = value.transpose(1, 2) if "kv_head" in DIMS[kind] else value[:, 0]
                assert torch.equal(taps[f"layers.{layer}.{kind}"], own)
