"""Every family in numpy, written from the formulas: what the recorder's truth is held against.

It has nothing of the harness, neither its code nor its shape: a token and a head at a time, pairs as complex
numbers, no mask. A family is what its paper and the code of transformers say; what neither config nor checkpoint
tells stands in the tables, with its source. A bias, a norm, a gate or a head of its own is there where the file
has it, and a tensor that nothing reads is an error. It knows the fields that the configs of `tiny.py` have.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.families.formulas_of_experts import experts, sink
from tests.families.latent_formulas import LatentAttention
from tests.families.rotation import Config, speeds, turned

Tensors = dict[str, np.ndarray]
Layers = Callable[[Config, int], bool]
Factor = Callable[[Config], float]


def table(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


# What makes a tap, by its name in a file: within a layer, or after a / outside.
LLAMA = table(
    "layers=model.layers embed=/model.embed_tokens final_norm=/model.norm logits=/lm_head "
    "q=self_attn.q_proj k=self_attn.k_proj v=self_attn.v_proj qkv=self_attn.qkv_proj attn_out=self_attn.o_proj "
    "q_norm=self_attn.q_norm k_norm=self_attn.k_norm attn_norm=input_layernorm mlp_norm=post_attention_layernorm "
    "gate=mlp.gate_proj up=mlp.up_proj gate_up=mlp.gate_up_proj mlp_out=mlp.down_proj "
    "q_latent=self_attn.q_a_proj q_latent_norm=self_attn.q_a_layernorm q_made=self_attn.q_b_proj "
    "kv_latent=self_attn.kv_a_proj_with_mqa kv_latent_norm=self_attn.kv_a_layernorm kv=self_attn.kv_b_proj"
)
NORMED_AFTER = table(  # OLMo has no second of these
    "attn_post_norm=post_attention_layernorm mlp_norm=pre_feedforward_layernorm "
    "mlp_post_norm=post_feedforward_layernorm"
)
NAMES = {
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2", "olmo3"), NORMED_AFTER),
    "glm4": table("attn_post_norm=post_self_attn_layernorm mlp_post_norm=post_mlp_layernorm"),
    "phi": table("attn_out=self_attn.dense up=mlp.fc1 mlp_out=mlp.fc2 final_norm=/model.final_layernorm"),
    "starcoder2": table("up=mlp.c_fc mlp_out=mlp.c_proj"),
    "gpt_neox": table(
        "layers=gpt_neox.layers embed=/gpt_neox.embed_in final_norm=/gpt_neox.final_layer_norm "
        "qkv=attention.query_key_value attn_out=attention.dense up=mlp.dense_h_to_4h mlp_out=mlp.dense_4h_to_h"
    ),
    "gpt2": table(
        "layers=transformer.h embed=/transformer.wte positions=/transformer.wpe final_norm=/transformer.ln_f "
        "attn_norm=ln_1 qkv=attn.c_attn attn_out=attn.c_proj mlp_norm=ln_2 up=mlp.c_fc mlp_out=mlp.c_proj"
    ),
}

CENTERED = {"cohere", "cohere2", "gpt2", "gpt_neox", "phi", "stablelm", "starcoder2"}
"""LayerNorm (Ba et al. 2016); the others have RMSNorm (Zhang & Sennrich 2019)."""
LESS_ONE = {"gemma", "gemma2", "gemma3_text"}
"""Weights of norms are stored less 1: `GemmaRMSNorm`."""
BY_HEAD = {"gpt_neox"}
"""The matrix of three has them head by head: `GPTNeoXAttention`; the others have one after the other."""
NEIGHBOURS = {"cohere", "cohere2", "deepseek_v2", "deepseek_v3", "glm4"}
"""Pairs are (2i, 2i + 1), as in RoFormer (Su et al. 2021); the others' are (i, i + dims / 2), as in GPT-NeoX."""
PLAIN_IN_WINDOWS = {"gemma3_text", "olmo3"}
"""`rope_scaling` is that of layers without a window: `convert_rope_params_to_dict` of their configs."""
AS_HALVES = {"deepseek_v3"}
"""Neighbours are turned, and written as halves: `apply_rotary_pos_emb_interleave`."""
PARALLEL = {"cohere", "cohere2", "phi"}
"""Attention and MLP side by side (Wang & Komatsuzaki 2021, GPT-J), whatever the config says."""
SLIDES: dict[str, Layers] = {
    **dict.fromkeys(("mistral", "phi3", "starcoder2"), lambda c, layer: True),
    **dict.fromkeys(("cohere2", "olmo3"), lambda c, layer: c["layer_types"][layer] == "sliding_attention"),
    **dict.fromkeys(
        ("qwen2", "qwen3", "qwen3_moe"),
        lambda c, i: bool(c.get("use_sliding_window")) and i >= c["max_window_layers"],
    ),
    **dict.fromkeys(("gemma2", "gpt_oss"), lambda c, layer: layer % 2 == 0),
    "gemma3_text": lambda c, layer: (layer + 1) % c["sliding_window_pattern"] != 0,
}
"""In which layers (from 0) a query sees a window; in the others', none has one."""
TURNS: dict[str, Layers] = {
    "cohere2": SLIDES["cohere2"],  # `Cohere2Attention`
    "gpt2": lambda c, layer: False,
    "smollm3": lambda c, layer: (layer + 1) % c["no_rope_layer_interval"] != 0,
}
"""In which layers queries and keys are turned; in the others', all of them."""
GRANITE = ("granite", "granitemoe")
EMBEDDED: dict[str, Factor] = {
    **dict.fromkeys(LESS_ONE, lambda c: math.sqrt(c["hidden_size"])),
    **dict.fromkeys(GRANITE, lambda c: c["embedding_multiplier"]),
}
SCORED: dict[str, Factor] = {
    **dict.fromkeys(("gemma2", "gemma3_text"), lambda c: 1 / math.sqrt(c["query_pre_attn_scalar"])),
    **dict.fromkeys(GRANITE, lambda c: c["attention_multiplier"]),
}
"""The others' factor on scores is 1 / sqrt(head_dim) (Vaswani et al. 2017)."""
ADDED: dict[str, Factor] = dict.fromkeys(GRANITE, lambda c: c["residual_multiplier"])
HEADED: dict[str, Factor] = {
    **dict.fromkeys(("cohere", "cohere2"), lambda c: c["logit_scale"]),
    **dict.fromkeys(GRANITE, lambda c: 1 / c["logits_scaling"]),
}

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    # x times the chance that a normal number is below x (Hendrycks & Gimpel 2016), and their approximation:
    "gelu": lambda x: x * np.vectorize(lambda one: math.erfc(-one / math.sqrt(2)) / 2)(x),
    "gelu_new": lambda x: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    """Within (-cap, cap) (Bello et al. 2016)."""
    return x if cap is None else cap * np.tanh(x / cap)


def seen(query: int, width: int | None) -> slice:
    """The keys that a query sees: the last `width` with its own (Beltagy et al. 2020), or all."""
    return slice(0 if width is None else max(query + 1 - width, 0), query + 1)


class Model(LatentAttention):
    """One prompt on its way through a model, which fills `taps`."""

    def __init__(self, weights: Tensors, config: Config, positions: np.ndarray):
        self.c, self.family, self.positions = config, config["model_type"], positions
        self.w = {name: np.asarray(tensor).astype(np.float64) for name, tensor in weights.items()}
        self.unread, self.taps, self.layer = set(self.w), {}, 0
        self.heads = config.get("num_attention_heads") or config["n_head"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.dim = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // self.heads

    def name(self, kind: str, part: str) -> str:
        names = LLAMA | NAMES.get(self.family, {})
        return f"{names['layers']}.{self.layer}.{names.get(kind, kind)}.{part}".rpartition("/")[2]

    def has(self, kind: str, part: str = "weight") -> bool:
        return self.name(kind, part) in self.w

    def read(self, kind: str, part: str = "weight") -> np.ndarray:
        self.unread.discard(self.name(kind, part))
        return self.w[self.name(kind, part)]

    def biased(self, kind: str, y: np.ndarray) -> np.ndarray:
        return y + self.read(kind, "bias") if self.has(kind, "bias") else y

    def tap(self, kind: str, value: np.ndarray) -> np.ndarray:
        outside = LLAMA.get(kind, "").startswith("/")
        self.taps[kind if outside else f"layers.{self.layer}.{kind}"] = value[None]
        return value

    def linear(self, kind: str, x: np.ndarray) -> np.ndarray:
        product = "ti,io->to" if self.family == "gpt2" else "ti,oi->to"  # `Conv1D`
        return self.biased(kind, np.einsum(product, x, self.read(kind)))

    def norm(self, kind: str, x: np.ndarray) -> np.ndarray:
        """Over as many numbers as the weight has along its last axis: a head's, or all (OLMo's of q and k too)."""
        weight = self.read(kind) + (self.family in LESS_ONE)
        y = x.reshape(len(x), -1, weight.shape[-1])
        y = y - y.mean(-1, keepdims=True) if self.family in CENTERED else y
        (eps,) = (self.c[field] for field in self.c if field.endswith(("norm_eps", "norm_epsilon")))
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + eps)
        return self.biased(kind, y * weight).reshape(x.shape)

    def normed(self, kind: str, x: np.ndarray) -> np.ndarray:
        return self.tap(kind, self.norm(kind, x)) if self.has(kind) else x

    def queries_keys_values(self, x: np.ndarray) -> list[np.ndarray]:
        if not self.has("qkv"):
            parts = [self.linear(kind, x) for kind in "qkv"]
        elif self.family in BY_HEAD:
            parts = list(np.moveaxis(self.linear("qkv", x).reshape(len(x), self.heads, 3, self.dim), 2, 0))
        else:
            ends = self.heads * self.dim, (self.heads + self.kv_heads) * self.dim
            parts = np.split(self.linear("qkv", x), ends, axis=1)
        split = (part.reshape(len(x), -1, self.dim) for part in parts)
        return [self.tap(kind, part) for kind, part in zip("qkv", split, strict=True)]

    def slides(self) -> bool:
        return self.family in SLIDES and bool(SLIDES[self.family](self.c, self.layer))

    def turns(self) -> np.ndarray:
        """By token and pair, the complex number that it is multiplied by; no pair where nothing is turned."""
        c = self.c
        if self.family in TURNS and not TURNS[self.family](c, self.layer):
            return np.ones((len(self.positions), 0))
        given = c.get("rope_scaling") or c.get("rope_parameters") or {}
        theta = c.get("rope_theta") or c.get("rotary_emb_base") or given["rope_theta"]
        if self.slides() and self.family in PLAIN_IN_WINDOWS:
            given, theta = {}, c.get("rope_local_base_freq", theta)
        dims = c.get("qk_rope_head_dim") or int(self.dim * c.get("partial_rotary_factor", c.get("rotary_pct", 1)))
        fast, longer = speeds(theta, dims, given, c, self.positions.max())
        return longer * np.exp(1j * self.positions[:, None] * np.array(fast))

    def growth(self) -> np.ndarray:
        """By token: `get_llama_4_attn_scale` of Ministral 3, 1 in the others."""
        given = self.c.get("rope_parameters") or {}
        lengths = self.positions // given.get("original_max_position_embeddings", 1)
        return 1 + given.get("llama_4_scaling_beta", 0.0) * np.log(1 + lengths)

    def attention(self, x: np.ndarray) -> np.ndarray:
        q, k, v = self.queries_keys_values(x)
        q, k, turns = self.normed("q_norm", q), self.normed("k_norm", k), self.turns()
        q, k = (turned(part, turns, self.family in NEIGHBOURS) for part in (q, k))
        q, k = self.tap("q_rope", q * self.growth()[:, None, None]), self.tap("k_rope", k)
        width = self.c["sliding_window"] if self.slides() else None
        scale = SCORED.get(self.family, lambda c: 1 / math.sqrt(self.dim))(self.c)
        cap = self.c["attn_logit_softcapping"] if self.family == "gemma2" else None  # Gemma 3's is not used
        probs, context = np.zeros((self.heads, len(x), len(x))), np.zeros_like(q)
        for head in range(self.heads):
            group = head // (self.heads // self.kv_heads)  # Ainslie et al. 2023
            for query in range(len(x)):
                keys = seen(query, width)
                raised = np.exp(capped(scale * (k[keys, group] @ q[query, head]), cap))
                probs[head, query, keys] = raised / (raised.sum() + sink(self, head))
                context[query, head] = probs[head, query, keys] @ v[keys, group]
        self.tap("probs", probs)
        return self.tap("attn_out", self.linear("attn_out", self.tap("context", context).reshape(len(x), -1)))

    def turned_last(self, x: np.ndarray) -> np.ndarray:
        """All of x [token, head, dim]; DeepSeek-V3's pairs of neighbours are left as two halves."""
        neighbours = self.family in NEIGHBOURS and self.c.get("rope_interleave", True)
        x = turned(x, self.turns(), neighbours)
        if self.family in AS_HALVES and neighbours:
            x = np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
        return x

    def mlp(self, x: np.ndarray) -> np.ndarray:
        c = self.c
        if not any(self.has(kind) for kind in ("up", "gate_up")):
            return experts(self, x)
        act = ACTIVATIONS[c.get("hidden_activation") or c.get("hidden_act") or c["activation_function"]]
        if self.has("gate_up"):
            parts = dict(zip(("gate", "up"), np.split(self.linear("gate_up", x), 2, axis=1), strict=True))
        else:
            parts = {kind: self.linear(kind, x) for kind in ("gate", "up") if self.has(kind)}
        for kind, part in parts.items():
            self.tap(kind, part)
        inside = act(parts["gate"]) * parts["up"] if "gate" in parts else act(parts["up"])  # Shazeer 2020
        return self.tap("mlp_out", self.linear("mlp_out", self.tap("act", inside)))

    def block(self, x: np.ndarray) -> np.ndarray:
        added = ADDED.get(self.family, lambda c: 1.0)(self.c)
        y = self.normed("attn_norm", x)
        attend = self.latent_attention if "kv_lora_rank" in self.c else self.attention
        attended = self.normed("attn_post_norm", attend(y))
        # `GPTNeoXConfig` and `StableLmConfig` for where the field is missing.
        if self.family in PARALLEL or self.c.get("use_parallel_residual", self.family == "gpt_neox"):
            y = self.normed("mlp_norm", x) if self.has("mlp_norm") else y
            return self.tap("resid_post", x + attended + self.mlp(y))
        x = self.tap("resid_mid", x + added * attended)
        y = self.normed("mlp_post_norm", self.mlp(self.normed("mlp_norm", x)))
        return self.tap("resid_post", x + added * y)

    def run(self, ids: list[int]) -> Tensors:
        x = EMBEDDED.get(self.family, lambda c: 1.0)(self.c) * self.read("embed")[ids]
        if self.has("positions"):  # Radford et al. 2019
            x = x + self.read("positions")[self.positions]
        x = self.tap("embed", x)
        for _ in range(self.c.get("num_hidden_layers") or self.c["n_layer"]):
            x = self.block(x)
            self.layer += 1
        x = self.normed("final_norm", x)
        # A head that is not in the file is the embedding (Press & Wolf 2017).
        logits = self.linear("logits", x) if self.has("logits") else np.einsum("ti,oi->to", x, self.read("embed"))
        logits = HEADED.get(self.family, lambda c: 1.0)(self.c) * logits
        self.tap("logits", capped(logits, self.c.get("final_logit_softcapping")))
        if self.unread:
            raise ValueError(f"nothing reads {sorted(self.unread)}")
        return self.taps


def forward(weights: Tensors, config: Config, ids: list[int], positions: list[int] | None = None) -> Tensors:
    """Every tap of one prompt in float64, with a batch axis of 1, in the order in which they are computed.

    Args:
        config: in the hub's dialect.
        positions: where they are not 0, 1, 2 and so on.
    """
    return Model(weights, config, np.array(range(len(ids)) if positions is None else positions)).run(ids)


def relative_rms(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))
