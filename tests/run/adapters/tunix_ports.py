"""Tunix's Qwen3, Gemma 2 and Gemma 3, which nobody here wrote or edits, as ports: a table and a config each."""

from __future__ import annotations

import jax.numpy as jnp
from tunix.models.gemma import model as gemma2
from tunix.models.gemma import params_safetensors as gemma2_params
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma3 import params_safetensors as gemma3_params
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3 import params as qwen3_params

from harness.architecture import architecture_of
from harness.run.adapters import NnxPort, Routed, To, normed

ATTN = "layers.{i}.attn"


def functions(module, shard, probs):
    """What is a function inside attention, in all three."""
    return {
        f"{shard}#2 in {ATTN}": "layers.{i}.v",  # the third value that it shards
        f"{module.__name__}:apply_rope#0 in {ATTN}": "layers.{i}.q_rope",
        f"{module.__name__}:apply_rope#1 in {ATTN}": "layers.{i}.k_rope",
        f"jax.nn:softmax in {ATTN}": To("layers.{i}.probs", probs),
    }


class Tunix(NnxPort):
    """What all three have in common."""

    pads = True

    def run(self, model, input_ids, positions, mask):
        causal = jnp.tril(jnp.ones((input_ids.shape[1],) * 2, bool)) & mask[:, None, :]
        return model(input_ids, positions, None, causal)[0]


class Qwen3(Tunix):
    dtypes = {"logits": "float32", "probs": "float32"}  # whatever the dtype of the check
    taps = {
        **functions(
            qwen3,
            f"{qwen3.__name__}:shard",
            "batch kv_head group position key -> batch (kv_head group) position key",
        ),
        "embedder.encode": "embed",
        "layers.{i}.input_layernorm": "layers.{i}.attn_norm",
        "layers.{i}.attn.q_proj": "layers.{i}.q",
        "layers.{i}.attn.k_proj": "layers.{i}.k",
        "layers.{i}.attn.q_norm": "layers.{i}.q_norm",
        "layers.{i}.attn.k_norm": "layers.{i}.k_norm",
        "layers.{i}.attn.o_proj(0)": "layers.{i}.context",
        "layers.{i}.attn[1]": "layers.{i}.attn_out",
        "layers.{i}.post_attention_layernorm(0)": "layers.{i}.resid_mid",
        "layers.{i}.post_attention_layernorm": "layers.{i}.mlp_norm",
        "layers.{i}.mlp.gate_proj": "layers.{i}.gate",
        "layers.{i}.mlp.up_proj": "layers.{i}.up",
        "layers.{i}.mlp.down_proj(0)": "layers.{i}.act",
        "layers.{i}.mlp": "layers.{i}.mlp_out",
        "layers.{i}[1]": "layers.{i}.resid_post",
        "final_norm": "final_norm",
    }

    @classmethod
    def sizes(cls, arch):
        return {"hidden_dim": arch.intermediate}

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh=None):
        a = architecture_of(config)
        shape = qwen3.ModelConfig(
            num_layers=a.layers,
            vocab_size=a.vocab,
            embed_dim=a.hidden,
            num_heads=a.heads,
            head_dim=a.head_dim,
            num_kv_heads=a.kv_heads,
            rope_theta=int(config["rope_theta"]),
            norm_eps=config["rms_norm_eps"],
            use_tied_embedding=a.tied_head,
            dtype=dtype,
            param_dtype=dtype,
            **cls.sizes(a),
        )
        model = qwen3_params.create_model_from_safe_tensors(str(checkpoint_dir), shape, mesh, dtype)
        return cls(model, config, dtype)


class Qwen3Moe(Qwen3):
    """Experts in every layer: theirs has no others."""

    taps = {
        **{path: tap for path, tap in Qwen3.taps.items() if ".mlp." not in path},
        "layers.{i}.mlp.router": "layers.{i}.router_logits",
        "jax.lax:top_k in layers.{i}.mlp": Routed("layers.{i}.routing", weigh=normed),
        "jax.numpy:einsum#-1 in layers.{i}.mlp": "layers.{i}.experts_out",
    }

    @classmethod
    def sizes(cls, arch):
        experts = arch.experts
        return {
            "hidden_dim": experts.intermediate,
            "num_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
        }


class Gemma2(Tunix):
    taps = {
        **functions(gemma2, f"{gemma2.__name__}:shard", "batch position head key"),
        f"{gemma2.__name__}:shard#1 in {ATTN}": "layers.{i}.k",
        "embedder.encode": "embed",
        "layers.{i}.pre_attention_norm": "layers.{i}.attn_norm",
        "layers.{i}.attn.q_einsum": "layers.{i}.q",
        "layers.{i}.attn.attn_vec_einsum(0)": "layers.{i}.context",
        "layers.{i}.attn[1]": "layers.{i}.attn_out",
        "layers.{i}.post_attn_norm": "layers.{i}.attn_post_norm",
        "layers.{i}.pre_ffw_norm(0)": "layers.{i}.resid_mid",
        "layers.{i}.pre_ffw_norm": "layers.{i}.mlp_norm",
        "layers.{i}.mlp.gate_proj": "layers.{i}.gate",
        "layers.{i}.mlp.up_proj": "layers.{i}.up",
        "layers.{i}.mlp.down_proj(0)": "layers.{i}.act",
        "layers.{i}.mlp": "layers.{i}.mlp_out",
        "layers.{i}.post_ffw_norm": "layers.{i}.mlp_post_norm",
        "layers.{i}[1]": "layers.{i}.resid_post",
        "final_norm": "final_norm",
    }

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh=None):
        a = architecture_of(config)
        local, every = gemma2.AttentionType.LOCAL_SLIDING, gemma2.AttentionType.GLOBAL
        shape = gemma2.ModelConfig(
            num_layers=a.layers,
            num_embed=a.vocab,
            embed_dim=a.hidden,
            hidden_dim=a.intermediate,
            num_heads=a.heads,
            head_dim=a.head_dim,
            num_kv_heads=a.kv_heads,
            final_logit_softcap=a.logit_cap,
            attn_logits_soft_cap=a.score_cap,
            use_post_attn_norm=True,
            use_post_ffw_norm=True,
            attention_types=[local if window else every for window in a.windows],
            sliding_window_size=config["sliding_window"],
        )
        model = gemma2_params.create_model_from_safe_tensors(str(checkpoint_dir), shape, mesh, dtype)
        return cls(model, config, dtype)


class Gemma3(Tunix):
    taps = {
        **{
            path.replace("post_attn_norm", "post_attention_norm"): tap
            for path, tap in Gemma2.taps.items()
            if not path.endswith(f" in {ATTN}")
        },
        **functions(gemma3, "tunix.utils.sharding_utils:shard", "batch position head key"),
        f"tunix.utils.sharding_utils:shard#1 in {ATTN}": "layers.{i}.k",
        "layers.{i}.attn._query_norm": "layers.{i}.q_norm",
        "layers.{i}.attn._key_norm": "layers.{i}.k_norm",
    }

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh=None):
        a = architecture_of(config)
        local = next(rope for rope, window in zip(a.ropes, a.windows, strict=True) if window)
        every = next(rope for rope, window in zip(a.ropes, a.windows, strict=True) if not window)
        shape = gemma3.ModelConfig(
            num_layers=a.layers,
            num_embed=a.vocab,
            embed_dim=a.hidden,
            hidden_dim=a.intermediate,
            num_heads=a.heads,
            head_dim=a.head_dim,
            num_kv_heads=a.kv_heads,
            sliding_window_size=config["sliding_window"],
            local_base_frequency=int(local.theta),
            global_base_frequency=int(every.theta),
            global_scale_factor=dict(every.parameters)["factor"],
            query_pre_attn_norm=gemma3.QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
            param_dtype=dtype,
        )
        model = gemma3_params.create_model_from_safe_tensors(str(checkpoint_dir), shape, mesh, dtype)
        return cls(model, config, dtype)
