"""Which known bugs a family can have, and why not the others; with the reasons as they are."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from harness import embedded
from harness.architecture import architecture_of
from harness.mutants.applies import not_here
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.catalogue import BY_ID, CATALOGUE
from harness.mutants.needs import of_architecture
from harness.record.families import NAMES, config
from tests.families import tiny
from tests.mutants.diagnosis.test_parts import OPTIONS_OF_OTHERS

HERE = {
    "llama3": {"rope_scaling_ignored", "rope_bands_swapped", "rope_interleaved", "norm_plus_one", "head_tied"}
    | {"sequential_as_parallel", "pre_norms_as_post", "residual_from_norm", "qkv_split_by_head"},
    "qwen3": {
        "qk_norms_after_rope",
        "qk_norm_over_all_heads",
        "qk_norms_missing",
        "qk_norm_weights_swapped",
        "rope_interleaved",
        "gate_up_exchanged",
    },
    "gemma2": {
        "norm_plus_one_missing",
        "post_norms_missing",
        "score_cap_missing",
        "window_missing",
        "gelu_as_silu",
        "score_cap_after_mask",
        "post_norms_after_sum",
        "first_and_last_norm_weights_swapped",
    },
    "gemma3": {
        "qk_norms_after_rope",
        "rope_local_global_swapped",
        "windows_inverted",
        "qk_norms_missing",
        "head_scaled_as_embedding",
    },
    "olmo2": {"post_norms_as_pre", "post_norms_after_sum", "qk_norm_by_head"}
    | {"post_norms_missing", "k_norm_missing", "norm_cast_early", "rope_neighbours_for_halves"},
    "gpt-neox": {"parallel_as_sequential", "rope_exponent_over_head_dim", "qkv_packing", "qk_exchanged"}
    | {"layer_norm_not_centered", "rope_over_the_whole_head", "up_bias_missing", "q_bias_missing"},
}
HERE["qwen3-moe"] = {
    *(
        "router_narrow",
        "router_one_fewer_chosen",
        "routing_not_normed",
        "routing_shifted",
        "routing_over_capacity",
    ),
    *("experts_gate_up_exchanged", "experts_shifted", "experts_weighed_first", "activation_gelu", "up_not_loaded"),
}
HERE["deepseek-v3"] = {
    *("router_correction_missing", "router_groups_ignored", "routing_corrected", "routing_factor_twice"),
    *("shared_expert_scaled", "latent_packing", "latent_key_of_first_head", "latent_not_turned"),
}
ELSEWHERE = {
    ("llama3", "q_bias_missing"): "q has no bias here",
    ("llama3", "qk_norms_missing"): "this model has no k_norm or q_norm",
    ("llama3", "yarn_factor_missing"): "RoPE has no factor on cosines and sines here",
    ("qwen3", "head_tied"): "the head is the embedding here",
    ("gemma2", "norm_plus_one"): "this model has another formula",
    ("gemma2", "rope_local_global_swapped"): "every layer has the same RoPE here",
    ("gemma3", "score_cap_missing"): "scores are not capped here",
    ("gemma3", "score_cap_after_mask"): "scores are not capped here",
    ("gemma3", "post_norms_as_pre"): "attention and MLP read a norm here",
    ("gemma3", "qk_norm_by_head"): "heads are normed one by one here",
    ("llama3", "qk_exchanged"): "queries and keys have different shapes here",
    ("llama3", "rope_exponent_over_head_dim"): "all of a head is turned here, or one pair of it",
    ("olmo2", "qk_norm_over_all_heads"): "all heads are normed together here",
    ("olmo2", "residual_from_norm"): "nothing is normed before attention here",
    ("gpt-neox", "sequential_as_parallel"): "attention and MLP do not follow each other",
    ("gpt-neox", "parallel_as_sequential_one_norm"): "attention and MLP do not share a norm here",
    ("gpt-neox", "qkv_split_by_head"): "stored head by head here: split so, they are right",
    ("olmo2", "norm_before_mlp_missing"): "this model has no mlp_norm",
    ("olmo2", "rope_interleaved"): "rotate_q, rotate_k: this model has another formula",
    ("gpt-neox", "mlp_residual_missing"): "this model has no mlp_residual",
    ("gpt-neox", "activation_clamped"): "this model has no expert_act or gated or shared_act",
    ("gpt-neox", "theta_1e4"): "that is what the config says here",
    ("gpt-neox", "positions_learned_missing"): "no positions are learned here",
    ("gpt-neox", "routing_shifted"): "this model has no routing",
    ("llama3", "sinks_missing"): "heads have no sinks here",
    ("llama3", "latent_values_first"): "attention is not latent here",
    ("qwen3-moe", "routing_factor_missing"): "weights have no factor here",
    ("qwen3-moe", "router_groups_ignored"): "experts are not chosen by groups here",
    ("qwen3-moe", "experts_clamp_one_sided"): "experts are not clamped here",
    ("qwen3-moe", "shared_expert_missing"): "this model has no shared_out",
    ("qwen3-moe", "experts_transposed"): "the experts' matrices are not square here",
    ("qwen3-moe", "experts_as_text"): "there are fewer than 11 experts",
    ("qwen3-moe", "layers_swapped"): "some layers have experts here",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_bug_is_one_where_its_operation_is(name):
    model = of_architecture(config(name))
    reasons = {mutant.id: not_here(mutant, model) for mutant in CATALOGUE}
    assert {mutant: reasons[mutant] for mutant in HERE[name] if reasons[mutant]} == {}
    assert sum(reason is None for reason in reasons.values()) > 100


@pytest.mark.parametrize(("name", "mutant"), ELSEWHERE, ids=[": ".join(pair) for pair in ELSEWHERE])
def test_elsewhere_the_reason_is_the_true_one(name, mutant):
    assert ELSEWHERE[name, mutant] in (not_here(BY_ID[mutant], of_architecture(config(name))) or "")


@pytest.mark.parametrize(("mutant", "symbol", "value"), OPTIONS_OF_OTHERS, ids=lambda x: str(x))
def test_a_value_of_the_catalogue_is_the_catalogues_mutant(mutant, symbol, value):
    free = BY_ID[mutant].free
    assert free.symbol == symbol
    changed = 0
    for name in (("deepseek_v3", "plain"), ("gpt_oss", "plain")):
        arch = architecture_of(tiny.config(*name))
        if not_here(BY_ID[mutant], of_architecture(tiny.config(*name))) is None:
            own = value if mutant != "router_one_fewer_chosen" else arch.experts.chosen - value
            assert free.change(own).options(arch) == BY_ID[mutant].change.options(arch) != arch
            changed += 1
    assert changed


def test_transposed_experts_are_those_of_square_matrices():
    config = {**tiny.config("gpt_oss", "plain"), "intermediate_size": 48}
    assert not_here(BY_ID["experts_transposed"], of_architecture(config)) is None
    right = np.random.default_rng(0).standard_normal((6, 48, 96))
    load = BY_ID["experts_transposed"].change.load
    arch = architecture_of(config)
    found = load("model.layers.0.mlp.experts.gate_up_proj", lambda name: right, arch)
    np.testing.assert_array_equal(found[..., ::2], right[..., ::2].swapaxes(1, 2))
    np.testing.assert_array_equal(found[..., 1::2], right[..., 1::2].swapaxes(1, 2))
    bias = np.arange(6 * 96.0).reshape(6, 96)
    np.testing.assert_array_equal(
        load("model.layers.0.mlp.experts.gate_up_proj_bias", lambda name: bias, arch), bias
    )


def test_hidden_groups_that_score_zero_are_chosen_before_scores_below_it():
    groups = BY_ID["router_groups_hidden_by_zero"].change.replaced["in_groups"].make(lambda scores: scores)
    hidden = groups(jnp.array([[[-0.5, -np.inf, 0.25]]]))
    np.testing.assert_array_equal(hidden, [[[-0.5, 0.0, 0.25]]])


def test_an_audit_goes_on_with_the_choice_of_the_golden_where_rounding_makes_another():
    """In bfloat16 the right decoder goes to other experts: its logits are right where it is pinned."""
    path = embedded.directory() / "deepseek-v3"
    question = AuditQuestion(("bfloat16",), ("routing_factor_twice",), ("seven",))
    found = audit(path.with_suffix(".h5"), path, question)
    (result,) = next(one.results for one in found.mutants if one.id == "routing_factor_twice")
    assert (result.outcome, result.named) == ("caught", True)
