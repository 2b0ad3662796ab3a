"""EasyDeL's Qwen2 (Flax nnx), which nobody here wrote or edits, as a port. Its own loader needs torch."""

import easydel
import jax.numpy as jnp
from ejkernel.types import MaskInfo
from flax import nnx

from harness.run.adapters import NnxPort, To
from harness.run.dialect import Parameters

L, A = "model.layers.{i}", "model.layers.{i}.self_attn"
Q, KV = "batch position (head head_dim)", "batch position (kv_head head_dim)"
PROBS = "batch kv_head group position key -> batch (kv_head group) position key"


class Port(NnxPort):
    taps = {
        "model.embed_tokens": "embed",
        f"{L}.input_layernorm": "layers.{i}.attn_norm",
        f"{A}.q_proj": To("layers.{i}.q", Q),
        f"{A}.k_proj": To("layers.{i}.k", KV),
        f"{A}.v_proj": To("layers.{i}.v", KV),
        f"{A}.rotary[0]": "layers.{i}.q_rope",
        f"{A}.rotary[1]": "layers.{i}.k_rope",
        f"jax.nn:softmax in {A}": To("layers.{i}.probs", PROBS),
        f"{A}.o_proj(0)": To("layers.{i}.context", Q),
        f"{A}[attention_output]": "layers.{i}.attn_out",
        f"{L}.post_attention_layernorm(0)": "layers.{i}.resid_mid",
        f"{L}.post_attention_layernorm": "layers.{i}.mlp_norm",
        f"{L}.mlp.gate_proj": "layers.{i}.gate",
        f"{L}.mlp.up_proj": "layers.{i}.up",
        f"{L}.mlp.down_proj(0)": "layers.{i}.act",
        f"{L}.mlp": "layers.{i}.mlp_out",
        f"{L}[hidden_states]": "layers.{i}.resid_post",
        "model.norm": "final_norm",
    }
    dtypes = {"probs": "float32"}
    options = staticmethod(lambda config, dtype: {})  # as it comes

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh):
        fields = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
        shape = easydel.Qwen2Config(**fields | cls.options(config, dtype))
        model = easydel.Qwen2ForCausalLM(shape, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
        weights = Parameters(checkpoint_dir, config)
        for *path, last in (path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))):
            value = jnp.asarray(
                weights[".".join(map(str, [*path, "bias" if last == "bias" else "weight"]))], dtype
            )
            node = model
            for part in path:
                node = node[part] if isinstance(part, int) else getattr(node, part)
            getattr(node, last)[...] = value.T if last == "kernel" else value
        return cls(model, config, dtype)

    def run(self, model, input_ids, positions, mask):
        with model.mesh:
            return model(input_ids=input_ids, position_ids=positions, attention_mask=mask).logits


class Cached(Port):
    """With its cache, a view a layer, by its own `init_cache`."""

    cache = {"views.{i}.key": "layers.{i}.cache_k", "views.{i}.value": "layers.{i}.cache_v"}

    def init_cache(self, batch, length, dtype):
        return self.model.init_cache(batch, length)

    def run(self, model, input_ids, positions, mask, cache):
        if cache is None:
            return super().run(model, input_ids, positions, mask), None
        segments = jnp.where(mask, 0, -1)  # as its own generate() says what is padding
        seen = MaskInfo.from_segments(segments, segments).apply_causal(offset=0)
        with model.mesh:
            found = model(input_ids=input_ids, position_ids=positions, mask_info=seen, past_key_values=cache)
        return found.logits, found.past_key_values
