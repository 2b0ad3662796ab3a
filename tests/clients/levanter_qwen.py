"""Levanter's Qwen2 (Equinox and Haliax), which nobody here wrote or edits, as a port: loaded by its own loader."""

import dataclasses

import haliax as hax
import jax
import jax.numpy as jnp
from haliax.state_dict import from_torch_compatible_state_dict
from levanter.layers.attention import AttentionBackend, AttentionMask
from levanter.models.qwen import QwenConfig
from transformers import Qwen2Config

from harness.run.adapters import EquinoxPort, To
from harness.run.dialect import Parameters

L, A = "transformer.layers.stacked", "transformer.layers.stacked.self_attn"  # all layers in one, scanned
GROUPED = "batch position kv_head group head_dim -> batch position (kv_head group) head_dim"
PROBS = "batch kv_head group position key -> batch (kv_head group) position key"


class Port(EquinoxPort):
    taps = {
        "embeddings.embed": "embed",
        f"{L}.input_layernorm": "layers.{i}.attn_norm",
        f"{A}.q_proj": To("layers.{i}.q", GROUPED),
        f"{A}.k_proj": "layers.{i}.k",
        f"{A}.v_proj": "layers.{i}.v",
        f"{A}.rot_embs#0": To("layers.{i}.q_rope", GROUPED),
        f"{A}.rot_embs#1": "layers.{i}.k_rope",
        f"haliax.nn:dropout(0) in {A}": To("layers.{i}.probs", PROBS),
        f"{A}.o_proj(0)": To("layers.{i}.context", "batch head position head_dim"),
        f"{A}": "layers.{i}.attn_out",
        f"{L}.post_attention_layernorm(0)": "layers.{i}.resid_mid",
        f"{L}.post_attention_layernorm": "layers.{i}.mlp_norm",
        f"{L}.mlp.gate_proj": "layers.{i}.gate",
        f"{L}.mlp.up_proj": "layers.{i}.up",
        f"{L}.mlp.down_proj(0)": "layers.{i}.act",
        f"{L}.mlp": "layers.{i}.mlp_out",
        L: "layers.{i}.resid_post",
        "transformer.norm": "final_norm",
    }
    pads = True
    configs = QwenConfig, Qwen2Config
    backend = AttentionBackend.VANILLA  # its others have no probabilities

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh):
        shape = cls.configs[0].from_hf_config(cls.configs[1].from_pretrained(checkpoint_dir))
        shape = dataclasses.replace(shape, attn_backend=cls.backend)
        vocab = hax.Axis("vocab", config["vocab_size"])
        model = shape.model_type.init(vocab, shape, key=jax.random.key(0))
        weights = {
            name: jnp.asarray(value.astype(dtype)) for name, value in Parameters(checkpoint_dir, config).items()
        }
        return cls(from_torch_compatible_state_dict(model, weights), config, dtype)

    def run(self, model, input_ids, positions, mask):
        axes = (hax.Axis("batch", input_ids.shape[0]), hax.Axis("position", input_ids.shape[1]))
        ids, positions, visible = (hax.named(x, axes) for x in (input_ids, positions, mask))
        keys = visible.rename({"position": "key_position"}).broadcast_axis(axes)
        return model(ids, AttentionMask.causal() & AttentionMask.explicit(keys), pos_ids=positions).array
