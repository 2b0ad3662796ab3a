"""What is said of the families that are known, without torch."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness import embedded
from harness.architecture import architecture_of, difference
from harness.cli import cli
from harness.errors import CheckpointError
from harness.families import families, names
from harness.recognise import OTHERS
from tests import documents
from tests.families import tiny

README = documents.read("README.md")


def test_the_readme_names_every_family():
    section = README.split("## Which models")[1].split("## Where to read on")[0]
    assert [name for name in families() if f"`{name}`" not in section] == []


def test_the_names_that_are_read_without_an_import_are_those_of_the_families():
    assert names() == sorted(families())


def test_no_family_is_both_known_and_refused():
    assert not OTHERS.keys() & families().keys()


@pytest.mark.parametrize("name", OTHERS)
def test_another_family_is_refused_with_its_reason(name):
    with pytest.raises(CheckpointError) as refused:
        architecture_of({"model_type": name})
    assert OTHERS[name][0] in str(refused.value) and OTHERS[name][1] in str(refused.value)


def test_the_list_has_every_embedded_golden_and_every_family():
    printed = CliRunner().invoke(cli, ["list"])
    assert printed.exit_code == 0, printed.output
    for path in embedded.goldens():
        assert path.stem in printed.output
    assert all(name in printed.output for name in families())


def test_the_help_of_the_recorder_names_every_family():
    printed = CliRunner().invoke(cli, ["record", "--help"])
    assert all(name in printed.output for name in families())


def test_commands_take_an_embedded_golden_by_name():
    for path in embedded.goldens():
        assert embedded.resolved(path.stem) == str(path)
    assert embedded.resolved("nowhere") == "nowhere"
    printed = CliRunner().invoke(cli, ["show", "qwen2-window"])
    assert printed.exit_code == 0 and "qwen2-window" in printed.output


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_a_field_that_is_null_absent_or_of_another_type_is_refused_or_has_a_stated_default(family, name):
    """Whatever becomes of one field: an architecture, or a refusal that names something. Never anything else."""
    fields = tiny.config(family, name)
    for field in fields:
        for changed in (
            {**fields, field: None},
            {**fields, field: "x"},
            {k: v for k, v in fields.items() if k != field},
        ):
            try:
                architecture_of(changed)
            except CheckpointError as refused:
                assert "config" in str(refused) or "model" in str(refused) or "RoPE" in str(refused)


# Fields of COMMON and of the tiny configs that change nothing.
SILENT = {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "torch_dtype", "model_type"}


def otherwise(value):
    """Another value of the same type."""
    if isinstance(value, dict):
        return {name: otherwise(inner) for name, inner in value.items() if not isinstance(inner, str)} | {
            name: inner for name, inner in value.items() if isinstance(inner, str)
        }
    if isinstance(value, list):
        others = value[::-1], value[1:] + value[:1], value[:-1]
        return next(other for other in others if other != value)
    if isinstance(value, bool):
        return not value
    return value if isinstance(value, str) else value * 2


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_each_field_changes_the_function_or_is_refused(family, name):
    fields = tiny.config(family, name)
    for field, value in fields.items():
        if field in SILENT or value is None or isinstance(value, str):
            continue
        try:
            found = difference(fields, {**fields, field: otherwise(value)})
        except CheckpointError:
            continue
        assert found, field


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_what_is_silent_changes_nothing(family, name):
    fields = tiny.config(family, name)
    silent = SILENT & fields.keys() - {"model_type", "torch_dtype"}
    if "short_factor" in (fields.get("rope_scaling") or {}):
        silent -= {"max_position_embeddings"}  # LongRoPE's factor, where the table has none
    for field in silent:
        assert difference(fields, {**fields, field: fields[field] + 1}) == [], field


@pytest.mark.parametrize(("family", "name"), [("mistral", "window"), ("phi3", "plain"), ("starcoder2", "plain")])
def test_a_window_of_no_key_is_refused(family, name):
    with pytest.raises(CheckpointError, match="not a positive whole number") as refused:
        architecture_of({**tiny.config(family, name), "sliding_window": 0})
    assert "sliding_window" in str(refused.value)


@pytest.mark.parametrize(
    "twice", [{"rope_theta": 5e5}, {"partial_rotary_factor": 0.5}], ids=["theta", "partial_rotary_factor"]
)
def test_what_longrope_and_the_config_say_differently_is_refused(twice):
    fields = tiny.config("phi3", "longrope")
    (field, value), table = next(iter(twice.items())), {**fields["rope_scaling"], **twice}
    with pytest.raises(CheckpointError, match=r"two RoPE thetas|says twice") as refused:
        architecture_of({**fields, "partial_rotary_factor": 1.0, "rope_scaling": table})
    assert field in str(refused.value) and f"{value:g}" in f"{refused.value}".replace("500000.0", "500000")


YARN_40 = {"beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096, "type": "yarn"}
# What is published, without `auto_map` and `quantization_config`, which are refused.
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {**YARN_40, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
KIMI_K2 = {
    **{field: value for field, value in DEEPSEEK.items() if field != "ep_size"},
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "rope_scaling": {**YARN_40, "beta_fast": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 163840,
}
V2_LITE = {
    **{field: value for field, value in DEEPSEEK.items() if field not in ("num_nextn_predict_layers",)},
    "architectures": ["DeepseekV2ForCausalLM"],
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "rope_scaling": {**YARN_40, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707},
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_group": 1,
    "topk_method": "greedy",
    "vocab_size": 102400,
}


@pytest.mark.parametrize(
    ("fields", "scale", "groups"),
    [(DEEPSEEK, 0.1352337788608801, (8, 4)), (KIMI_K2, 0.13086080, (1, 1)), (V2_LITE, 0.1147213867929261, (1, 1))],
    ids=["DeepSeek-V3", "Kimi K2", "DeepSeek-V2-Lite"],
)
def test_published_configs_of_latent_attention_are_read(fields, scale, groups):
    arch = architecture_of(fields)
    assert arch.scale == pytest.approx(scale, rel=1e-6)
    assert arch.mla is not None and (arch.mla.kv_rank, arch.mla.rope, arch.mla.norm.eps) == (512, 64, 1e-6)
    assert arch.experts is not None and (arch.experts.groups, arch.experts.chosen_groups) == groups
    assert sum(arch.experts.layers) == arch.layers - fields["first_k_dense_replace"]


@pytest.mark.parametrize(
    ("changed", "message", "where"),
    [
        ({"head_dim": 128}, "a size that follows from others", "head_dim"),
        ({"num_key_value_heads": 8}, "every head has a key of its own", "num_key_value_heads"),
        ({"qk_rope_head_dim": 63}, "RoPE turns pairs", "qk_rope_head_dim"),
        ({"n_group": 7}, "cannot be shared out among the groups", "n_group"),
        ({"topk_group": 1, "n_group": 64}, "more experts are chosen", "num_experts_per_tok"),
        ({"topk_method": "greedy"}, "does not do", "topk_method"),
        ({"model_type": "kimi_k2"}, "deepseek_v3 by another name", "model_type"),
    ],
)
def test_what_contradicts_latent_attention_or_its_experts_is_refused(changed, message, where):
    with pytest.raises(CheckpointError, match=message) as refused:
        architecture_of({**DEEPSEEK, **changed})
    assert where in str(refused.value)
