"""A Qwen2 in Keras 3, as one finds them: layers of one's own in a model of one's own, or in a functional model."""

from __future__ import annotations

import keras
from keras import ops

from harness.architecture import architecture_of
from harness.run.adapters import KerasPort
from tests.run.adapters import functions


class Norm(keras.layers.Layer):
    def __init__(self, eps, **kwargs):
        super().__init__(**kwargs)
        self.eps = eps

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")

    def call(self, x):
        return functions.rms_norm(x, ops.convert_to_tensor(self.scale), self.eps)


class Rope(keras.layers.Layer):
    def __init__(self, theta, **kwargs):
        super().__init__(**kwargs)
        self.theta = theta

    def call(self, x, positions):
        return functions.rope(x, positions, self.theta)


class Attention(keras.layers.Layer):
    """One rotation, called for the queries and again for the keys."""

    def __init__(self, arch, **kwargs):
        super().__init__(**kwargs)
        self.arch = arch

        def dense(heads, name):
            return keras.layers.EinsumDense(
                "bsm,mhd->bshd", (None, heads, arch.head_dim), bias_axes="hd", dtype=self.dtype_policy, name=name
            )

        self.query, self.key = dense(arch.heads, "query"), dense(arch.kv_heads, "key")
        self.value = dense(arch.kv_heads, "value")
        self.rope = Rope(arch.ropes[0].theta, dtype=self.dtype_policy)
        self.softmax = keras.layers.Softmax(dtype="float32")
        self.out = keras.layers.EinsumDense(
            "bshd,hdm->bsm", (None, arch.hidden), dtype=self.dtype_policy, name="out"
        )

    def build(self, shape):
        for layer in (self.query, self.key, self.value):
            layer.build(shape)
        self.out.build((*shape[:2], self.arch.heads, self.arch.head_dim))

    def call(self, x, positions, mask):
        q, k, v = self.query(x), self.key(x), self.value(x)
        q, k = self.rope(q, positions=positions), self.rope(k, positions=positions)
        return self.out(self.attend(q, k, v, mask))

    def attend(self, q, k, v, mask):
        k, v = (ops.repeat(y, self.arch.heads // self.arch.kv_heads, axis=2) for y in (k, v))
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) * ops.cast(q.shape[-1] ** -0.5, q.dtype)
        visible = ops.logical_and(ops.tril(ops.ones(scores.shape[-2:], "bool")), mask[:, None, None, :])
        probs = ops.cast(self.softmax(scores, mask=visible), q.dtype)
        return ops.einsum("bhqk,bkhd->bqhd", probs, v)


class Block(keras.layers.Layer):
    def __init__(self, arch, **kwargs):
        super().__init__(**kwargs)

        def dense(size, name):
            return keras.layers.Dense(size, use_bias=False, dtype=self.dtype_policy, name=name)

        self.input_norm = Norm(arch.norm.eps, dtype=self.dtype_policy, name="input_norm")
        self.attn = Attention(arch, dtype=self.dtype_policy, name="attn")
        self.post_norm = Norm(arch.norm.eps, dtype=self.dtype_policy, name="post_norm")
        self.gate, self.up = dense(arch.intermediate, "gate"), dense(arch.intermediate, "up")
        self.down = dense(arch.hidden, "down")

    def build(self, shape):
        for layer in (self.input_norm, self.attn, self.post_norm, self.gate, self.up):
            layer.build(shape)
        self.down.build((*shape[:2], self.gate.units))

    def compute_output_spec(self, x, positions, mask):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x, positions, mask):
        x = x + self.attn(self.input_norm(x), positions=positions, mask=mask)
        y = self.post_norm(x)
        return x + self.down(ops.silu(self.gate(y)) * self.up(y))


class Model(keras.Model):
    """A subclassed model, with its blocks in a list."""

    def __init__(self, arch, **kwargs):
        super().__init__(**kwargs)
        policy = {"dtype": self.dtype_policy}
        self.embedding = keras.layers.Embedding(arch.vocab, arch.hidden, name="embedding", **policy)
        self.blocks = [Block(arch, name=f"block_{i}", **policy) for i in range(arch.layers)]
        self.norm = Norm(arch.norm.eps, name="norm", **policy)
        self.head = keras.layers.Dense(arch.vocab, use_bias=False, name="head", **policy)

    def call(self, inputs):
        x = self.embedding(inputs["ids"])
        for block in self.blocks:
            x = block(x, positions=inputs["positions"], mask=inputs["mask"])
        return self.head(self.norm(x))


def functional(arch, dtype):
    """The same layers in a functional model, where they have names, and no attributes."""
    shapes = {"ids": "int32", "positions": "int32", "mask": "bool"}
    inputs = {name: keras.Input((None,), dtype=kind, name=name) for name, kind in shapes.items()}
    layers = Model(arch, dtype=dtype)
    return keras.Model(inputs, layers.call(inputs))


def fill(model, directory, arch):
    """The weights, by the names of the layers."""
    found = functions.parameters(directory, "float64")

    def assign(layer, name):
        kernel, *bias = layer.weights
        kernel.assign(found[f"{name}.weight"].reshape(kernel.shape))
        for variable in bias:
            variable.assign(found[f"{name}.bias"].reshape(variable.shape))

    assign(model.get_layer("embedding"), "model.embed_tokens")
    assign(model.get_layer("norm"), "model.norm")
    assign(model.get_layer("head"), "lm_head")
    for i in range(arch.layers):
        block, at = model.get_layer(f"block_{i}"), f"model.layers.{i}"
        assign(block.input_norm, f"{at}.input_layernorm")
        assign(block.post_norm, f"{at}.post_attention_layernorm")
        for layer, letter in (*zip((block.attn.query, block.attn.key, block.attn.value), "qkv", strict=True),):
            assign(layer, f"{at}.self_attn.{letter}_proj")
        assign(block.attn.out, f"{at}.self_attn.o_proj")
        for name in ("gate", "up", "down"):
            assign(getattr(block, name), f"{at}.mlp.{name}_proj")


def table(block):
    return {
        "embedding": "embed",
        f"{block}.input_norm": "layers.{i}.attn_norm",
        f"{block}.attn.query": "layers.{i}.q",
        f"{block}.attn.key": "layers.{i}.k",
        f"{block}.attn.value": "layers.{i}.v",
        f"{block}.attn.rope#0": "layers.{i}.q_rope",
        f"{block}.attn.rope#1": "layers.{i}.k_rope",
        f"{block}.attn.softmax": "layers.{i}.probs",
        f"{block}.attn.attend": "layers.{i}.context",
        f"{block}.attn": "layers.{i}.attn_out",
        f"{block}.post_norm(0)": "layers.{i}.resid_mid",
        f"{block}.post_norm": "layers.{i}.mlp_norm",
        f"{block}.gate": "layers.{i}.gate",
        f"{block}.up": "layers.{i}.up",
        f"{block}.down(0)": "layers.{i}.act",
        f"{block}.down": "layers.{i}.mlp_out",
        block: "layers.{i}.resid_post",
        "norm": "final_norm",
    }


class Subclassed(KerasPort):
    taps = table("blocks.{i}")
    dtypes = {"probs": "float32"}  # its softmax, whatever the dtype of the check
    pads = True
    policy: str | None = None

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        arch = architecture_of(config)
        model = cls.built(arch, cls.policy or keras.backend.standardize_dtype(dtype))
        fill(model, directory, arch)
        return cls(model, config, dtype)

    @staticmethod
    def built(arch, dtype):
        model = Model(arch, dtype=dtype)
        model(
            {
                "ids": ops.zeros((1, 1), "int32"),
                "positions": ops.zeros((1, 1), "int32"),
                "mask": ops.ones((1, 1), "bool"),
            }
        )
        return model

    def run(self, model, input_ids, positions, mask):
        return model({"ids": input_ids, "positions": positions, "mask": mask})


class Functional(Subclassed):
    taps = table("block_{i}")
    built = staticmethod(functional)
