"""Qwen2 in numpy, written from the formulas and nothing else: what the recorder's truth is held against."""

from __future__ import annotations

import numpy as np


def forward(weights: dict[str, np.ndarray], config: dict, ids: list[int]) -> dict[str, np.ndarray]:
    """Every tap of one prompt, in float64, with a batch axis of 1."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config["hidden_size"] // heads
    taps: dict[str, np.ndarray] = {}

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight

    def rope(x):  # [S, heads, dim]: element i turns with element i + dim/2
        angle = np.arange(len(ids))[:, None] / config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        first, second = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    x = taps["embed"] = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at, tap = f"model.layers.{layer}.", f"layers.{layer}."
        normed = taps[tap + "attn_norm"] = norm(x, w[at + "input_layernorm.weight"])
        for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            projection = f"{at}self_attn.{name}_proj."
            taps[tap + name] = (normed @ w[projection + "weight"].T + w[projection + "bias"]).reshape(-1, n, dim)
        q = taps[tap + "q_rope"] = rope(taps[tap + "q"])
        k = taps[tap + "k_rope"] = rope(taps[tap + "k"])
        probs, context = [], []
        for head in range(heads):
            group = head * kv_heads // heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            if config["use_sliding_window"] and layer >= config["max_window_layers"]:
                scores[np.tril_indices(len(ids), -config["sliding_window"])] = -np.inf
            exp = np.exp(scores - scores.max(-1, keepdims=True))
            probs.append(exp / exp.sum(-1, keepdims=True))
            context.append(probs[-1] @ taps[tap + "v"][:, group])
        taps[tap + "probs"], taps[tap + "context"] = np.stack(probs), np.stack(context, 1)
        merged = taps[tap + "context"].reshape(len(ids), -1)
        taps[tap + "attn_out"] = merged @ w[at + "self_attn.o_proj.weight"].T
        x = taps[tap + "resid_mid"] = x + taps[tap + "attn_out"]
        normed = taps[tap + "mlp_norm"] = norm(x, w[at + "post_attention_layernorm.weight"])
        gate = taps[tap + "gate"] = normed @ w[at + "mlp.gate_proj.weight"].T
        up = taps[tap + "up"] = normed @ w[at + "mlp.up_proj.weight"].T
        act = taps[tap + "act"] = gate / (1 + np.exp(-gate)) * up
        taps[tap + "mlp_out"] = act @ w[at + "mlp.down_proj.weight"].T
        x = taps[tap + "resid_post"] = x + taps[tap + "mlp_out"]
    taps["final_norm"] = norm(x, w["model.norm.weight"])
    head = w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    taps["logits"] = taps["final_norm"] @ head.T
    return {name: value[None] for name, value in taps.items()}


def relative_rms(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))
