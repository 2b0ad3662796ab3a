"""keras-hub's Qwen, which nobody here wrote or edits, as a port: loaded by its own loader. See README.md."""

import jax.numpy as jnp
import keras_hub

from harness.run.adapters import KerasPort, To


class Port(KerasPort):
    taps = {
        "token_embedding#0": "embed",  # called again for the logits
        "transformer_layers.{i}._self_attention_layernorm": "layers.{i}.attn_norm",
        "transformer_layers.{i}._self_attention_layer._query_dense": "layers.{i}.q",
        "transformer_layers.{i}._self_attention_layer._key_dense": "layers.{i}.k",
        "transformer_layers.{i}._self_attention_layer._value_dense": "layers.{i}.v",
        "transformer_layers.{i}._self_attention_layer.rotary_embedding_layer#0": "layers.{i}.q_rope",
        "transformer_layers.{i}._self_attention_layer.rotary_embedding_layer#1": "layers.{i}.k_rope",
        "jax._src.nn.functions:softmax in transformer_layers.{i}._self_attention_layer": To(
            "layers.{i}.probs", "1 batch head position key"
        ),
        "transformer_layers.{i}._self_attention_layer._compute_attention": "layers.{i}.context",
        "transformer_layers.{i}._self_attention_layer[0]": "layers.{i}.attn_out",
        "transformer_layers.{i}._feedforward_layernorm(0)": "layers.{i}.resid_mid",
        "transformer_layers.{i}._feedforward_layernorm": "layers.{i}.mlp_norm",
        "transformer_layers.{i}._feedforward_gate_dense": "layers.{i}.gate",
        "transformer_layers.{i}._feedforward_intermediate_dense": "layers.{i}.up",
        "transformer_layers.{i}._feedforward_output_dense(0)": "layers.{i}.act",
        "transformer_layers.{i}._feedforward_output_dense": "layers.{i}.mlp_out",
        "transformer_layers.{i}[0]": "layers.{i}.resid_post",
        "layer_norm": "final_norm",
    }
    dtypes = {"probs": "float32"}
    pads = True
    cannot = ("offset",)  # it takes no positions: they count from the first slot of a row
    positions_from_pads = ("left",)

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh):
        name = jnp.dtype(dtype).name
        return cls(keras_hub.models.QwenBackbone.from_preset(str(checkpoint_dir), dtype=name), config, dtype)

    def run(self, model, input_ids, positions, mask):
        x = model({"token_ids": input_ids, "padding_mask": mask})
        return model.token_embedding(x, reverse=True)


class Cached(Port):
    """With its cache, one array for all layers; the caller counts. It has no mask for pads there."""

    cache = {"array[:, {i}, 0]": "layers.{i}.cache_k", "array[:, {i}, 1]": "layers.{i}.cache_v"}

    def init_cache(self, batch, length, dtype):
        heads, size = self.model.num_key_value_heads, self.model.hidden_dim // self.model.num_query_heads
        array = jnp.zeros((batch, self.model.num_layers, 2, length, heads, size), dtype)
        return {"array": array, "index": jnp.zeros((), int)}  # as wide as the zeros beside it

    def run(self, model, input_ids, positions, mask, cache):
        if cache is None:
            return super().run(model, input_ids, positions, mask), None
        whole = keras_hub.models.QwenCausalLM(backbone=model, preprocessor=None)
        logits, _, array = whole.call_with_cache(input_ids, cache["array"], cache["index"])
        return logits, {"array": array, "index": cache["index"] + input_ids.shape[1]}


class Batched(Cached):
    """Its layers one by one, which take a mask of the pads in the cache: `call_with_cache` has none to hand on."""

    def run(self, model, input_ids, positions, mask, cache):
        if cache is None:
            return Port.run(self, model, input_ids, positions, mask), None
        x, layers = model.token_embedding(input_ids), []
        for i, layer in enumerate(model.transformer_layers):
            x, own = layer(
                x,
                decoder_padding_mask=mask,
                self_attention_cache=cache["array"][:, i],
                self_attention_cache_update_index=cache["index"],
            )
            layers.append(own)
        logits = model.token_embedding(model.layer_norm(x), reverse=True)
        return logits, {"array": jnp.stack(layers, axis=1), "index": cache["index"] + input_ids.shape[1]}
