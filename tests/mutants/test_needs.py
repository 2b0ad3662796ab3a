"""The reasons for a survivor, from facts about the inputs and the checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.architecture import read_config
from harness.mutants.applies import not_here
from harness.mutants.catalogue import BY_ID
from harness.mutants.judgement import Facts, judge
from harness.mutants.needs import CaseFacts, case_facts, model_facts
from harness.mutants.runs import Deviation, MutantRun
from harness.store import open_golden

LONG = CaseFacts("long", tokens=40, furthest=39, padded_left=False, counted=True)


@pytest.fixture
def model(checkpoint):
    return model_facts(checkpoint, read_config(checkpoint))


def changed(checkpoint, **tensors):
    """The checkpoint's facts with some parameters set to one value."""
    weights = load_file(checkpoint / "model.safetensors")
    for ending, value in tensors.items():
        for name in weights:
            if name.endswith(ending.replace("__", ".")):
                weights[name] = np.full_like(weights[name], value)
    save_file(weights, checkpoint / "model.safetensors")
    return model_facts(checkpoint, read_config(checkpoint))


def reason(name, model, *cases, precision="float64", deviations=()):
    found = judge(MutantRun(BY_ID[name], deviations=list(deviations)), precision, Facts(cases or [LONG], model))
    return found.outcome, found.reason


def test_zero_biases_are_the_reason_why_a_missing_bias_survives(own_checkpoint):
    model = changed(own_checkpoint, q_proj__bias=0)
    expected = ("unreachable", "the biases of q are zero in this checkpoint")
    assert reason("q_bias_missing", model) == expected
    assert "k_proj" not in reason("k_bias_missing", model)[1]


def test_norm_weights_that_are_all_one_are_a_reason(own_checkpoint):
    model = changed(own_checkpoint, input_layernorm__weight=1)
    outcome, words = reason("norm_weights_swapped", model)
    assert (outcome, words) == (
        "unreachable",
        "the weights of attn_norm are all the same in this checkpoint",
    )


def test_the_structured_checkpoint_lacks_nothing(model):
    assert model.zero == model.constant == frozenset()
    assert model.dtypes == {"bfloat16"}


def test_one_case_has_to_meet_all_needs_at_once(model):
    far = CaseFacts("far", tokens=1, furthest=9000, padded_left=False, counted=False)
    assert reason("positions_in_bfloat16", model, LONG) == ("unreachable", "no case has a position beyond 256")
    assert "no need of it is known" in reason("positions_in_bfloat16", model, LONG, far)[1]


def test_a_head_count_without_groups_makes_their_order_no_bug(own_checkpoint):
    config = json.loads((own_checkpoint / "config.json").read_text())
    ungrouped = model_facts(own_checkpoint, {**config, "num_key_value_heads": config["num_attention_heads"]})
    assert "every order of the KV heads is the same" in not_here(BY_ID["gqa_tiled"], ungrouped)


@pytest.mark.parametrize("name", ["gqa_tiled", "o_transposed", "head_tied", "layers_swapped"])
def test_it_is_a_bug_in_the_embedded_architecture(name, model):
    assert not_here(BY_ID[name], model) is None


def test_changed_but_within_the_limit_is_survived(model):
    small = Deviation("long", True, "replay", "layers.0.attn_norm", "match", 0.5, 2.0)
    expected = ("survived", "below this precision's rounding: at most 0.5 of the limit")
    assert reason("eps_1e5", model, deviations=[small]) == expected


def test_a_precision_at_which_nothing_is_rounded_makes_it_equivalent(model):
    assert reason("norm_cast_late", model) == ("equivalent", "the activations are as wide as the sums")
    assert reason("norm_cast_late", model, precision="bfloat16")[0] == "unreachable"


def test_facts_of_a_case_are_read_from_the_golden(golden_path):
    with open_golden(golden_path) as golden:
        facts = case_facts(golden, golden.manifest.case("code"))
        chunked = case_facts(golden, golden.manifest.case("chunked"))
        left = case_facts(golden, golden.manifest.case("batch-left"))
        kept = case_facts(golden, golden.manifest.case("longest"))
    assert (chunked.steps, chunked.chunked, facts.steps) == (3, True, 0)
    assert (left.padded_left, left.counted, left.tokens) == (True, False, 9)
    assert kept.furthest == kept.tokens - 1
    assert (facts.tokens, facts.furthest, facts.padded_left, facts.counted) == (49, 48, False, True)
