"""Known bugs on tiny models of families without an embedded golden: each is found where it is, and only there."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.architecture import architecture_of
from harness.corpus import Corpus
from harness.entries import Batch, Offset, Prompt
from harness.families.graph import kinds_in
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.catalogue import BY_ID
from harness.record.recorder import record
from tests.families import tiny

CORPUS = Corpus(
    (
        Prompt("one", "A b", "few tokens", level="logits"),
        Prompt("some", "1 2 3 45", "more than a window", level="logits"),
    ),
    batches=(Batch("left", ("one", "some"), "left", "pads"),),
    offsets=(Offset("far", "1 2 3 45", ((0, 0), (3, 300)), "far"),),
)
FUSED = ("kv_exchanged", "qkv_packing", "q_heads_reshaped", "kv_heads_reshaped")
GATE_UP = ("gate_up_exchanged", "gate_up_packing")
SHARED = ("parallel_as_sequential_one_norm",)
PARTLY = ("rope_exponent_over_head_dim", "rope_last_dimensions", "rope_over_the_whole_head")
WINDOWS = ("windows_ignored", "windows_everywhere", "windows_inverted")
ORDERED = ("sequential_as_parallel", "pre_norms_as_post", "residual_from_norm")
EXPERTS = (
    "router_narrow",
    "router_one_fewer_chosen",
    "routing_of_logits",
    "routing_shifted",
    "routing_narrow",
    "routing_over_capacity",
    "routing_room_taken_by_padding",
    "experts_gate_up_exchanged",
    "experts_gate_up_packing",
    "experts_shifted",
    "experts_first_half_twice",
    "expert_not_loaded",
    "experts_weighed_first",
)
OF_SOFTMAX = ("router_sigmoid_for_softmax", "routing_softmax_over_tokens")
OF_SIGMOID = (
    "router_correction_missing",
    "router_softmax_for_sigmoid",
    "router_groups_ignored",
    "router_groups_by_best",
    "router_groups_of_wrong_size",
    "routing_corrected",
    "routing_not_normed",
    "routing_factor_missing",
    "routing_factor_twice",
)
CLAMPED = (
    "router_bias_missing",
    "routing_softmax_before_choice",
    "experts_gate_up_packing",
    "experts_inner_biases_missing",
    "experts_outer_biases_missing",
    "experts_biases_unweighed",
    "experts_clamp_missing",
    "experts_clamp_one_sided",
    "experts_alpha_missing",
    "experts_one_missing",
    "sinks_missing",
)
LATENT = (
    "latent_norms_eps",
    "latent_norms_missing",
    "latent_split_reversed",
    "latent_not_turned",
    "latent_first_dimensions_turned",
    "latent_packing",
    "latent_values_first",
    "latent_key_of_first_head",
    "latent_scale_absorbed",
    "latent_scale_once",
    "scale_of_head_dim",
    "rope_halves_for_neighbours",
)
# By config: bugs that no embedded golden has, or has in another layout.
PLANTED = {
    ("cohere", "plain"): SHARED,
    ("cohere2", "plain"): (*SHARED, *WINDOWS),
    ("cohere", "qk"): (*SHARED, "qk_norms_after_rope", "qk_norm_over_all_heads"),
    ("glm4", "plain"): (*GATE_UP, *PARTLY, "post_norms_after_sum", "first_and_last_norm_weights_swapped"),
    ("gpt2", "plain"): (*FUSED, *ORDERED, "qkv_split_by_head", "qk_exchanged"),
    ("gpt_neox", "parallel"): (*FUSED, "qk_exchanged", "parallel_as_sequential"),
    ("gpt_neox", "sequential"): (*FUSED, *ORDERED, "qk_exchanged"),
    ("mistral", "window"): WINDOWS[:1],
    ("olmo3", "plain"): (
        *WINDOWS,
        "post_norms_as_pre",
        "post_norms_after_sum",
        "qk_norms_after_rope",
        "qk_norm_by_head",
    ),
    ("phi", "plain"): (*SHARED, *PARTLY, "qk_exchanged"),
    ("deepseek_v3", "plain"): (*OF_SIGMOID, *LATENT, "shared_expert_scaled"),
    ("gpt_oss", "plain"): CLAMPED,
    ("qwen2_moe", "plain"): (
        *EXPERTS,
        *OF_SOFTMAX,
        "routing_softmax_after_choice",
        "shared_expert_missing",
        "shared_expert_ungated",
        "activation_gelu",
    ),
    ("phi3", "plain"): (*FUSED, *GATE_UP, *PARTLY, *ORDERED, "qkv_split_by_head"),
    ("stablelm", "parallel"): (*SHARED, *PARTLY),
}


@pytest.mark.parametrize(("family", "name"), PLANTED, ids=["-".join(one) for one in PLANTED])
def test_a_bug_is_found_where_it_is(family, name, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.record.noise.DRAWS_OF_SHORT", 1)  # nothing is judged by noise in float64
    directory, golden = tiny.write(tmp_path / "model", family, name), tmp_path / "golden.h5"
    record(directory, "model", CORPUS, str(golden))
    found = audit(golden, directory, AuditQuestion(("float64",), PLANTED[family, name]))
    here = kinds_in(architecture_of(tiny.config(family, name)))
    results = {one.id: one.results[0] for one in found.mutants}
    assert {one: (r.outcome, r.named, set(r.introduced)) for one, r in results.items()} == {
        one: ("caught", True, BY_ID[one].introduced & here) for one in PLANTED[family, name]
    }
