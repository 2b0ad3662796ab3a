"""Mixtures of experts in numpy, a token and an expert at a time: `formulas.py` goes through here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# Where a layer has what, after a / outside of `mlp`; the others have what is called `usual` here.
USUAL = {
    "router": "mlp.gate",
    "expert": "mlp.experts.{}",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "shared": "mlp.shared_experts",
}
PLACES: dict[str, dict[str, str]] = {
    "gpt_oss": {"router": "mlp.router", "expert": "mlp.experts"},
    "granitemoe": {"router": "block_sparse_moe.router.layer", "expert": "block_sparse_moe"},
    "mixtral": {
        "router": "block_sparse_moe.gate",
        "expert": "block_sparse_moe.experts.{}",
        "gate": "w1",
        "up": "w3",
        "down": "w2",
    },
    "qwen2_moe": {"shared": "mlp.shared_expert"},
}
OF_CHOSEN = {"gpt_oss", "granitemoe"}
"""The softmax is over the logits of the chosen: `GptOssTopKRouter`, `GraniteMoeTopKRouter`."""
SIGMOID = {"glm4_moe", "deepseek_v3"}
"""DeepSeek-V3 (2024), equation 15: affinities are sigmoids, and what is added to them is for the choice alone."""
NORMED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "mixtral": lambda c: True,
    "gpt_oss": lambda c: False,
    "granitemoe": lambda c: False,
    "deepseek_v2": lambda c: False,
}
"""Whether the weights of a token are divided by their sum; the others' configs say it."""
SUMMED = {"glm4_moe": 2, "deepseek_v3": 2}
"""How many of a group's scores are added up for the choice of groups: `noaux_tc`; else its best one alone."""


def experts(m: Any, x: np.ndarray) -> np.ndarray:
    """What a layer's experts make of x [token, hidden]."""
    c, places = m.c, USUAL | PLACES.get(m.family, {})
    logits = m.tap("router_logits", m.linear(places["router"], x))
    scores = 1 / (1 + np.exp(-logits)) if m.family in SIGMOID else logits
    choosing = scores
    if m.has(places["router"], "e_score_correction_bias"):
        choosing = m.tap("router_scores", scores + m.read(places["router"], "e_score_correction_bias"))
    routing = np.zeros_like(logits)
    for token in range(len(x)):
        chosen = choice(m.family, c, choosing[token])
        routing[token, chosen] = weights(m.family, c, logits[token], scores[token], chosen)
    m.tap("routing", routing)
    out = np.zeros_like(x)
    for expert in range(logits.shape[1]):
        matrices = of_expert(m, places, expert)
        for token in np.flatnonzero(routing[:, expert]):
            out[token] += routing[token, expert] * through(m, matrices, x[token])
    out = m.tap("experts_out", out)
    if m.has(f"{places['shared']}.gate_proj"):
        out = out + shared(m, places["shared"], x)
    return m.tap("mlp_out", out)


def choice(family: str, c: dict[str, Any], scores: np.ndarray) -> np.ndarray:
    """The experts with the best scores, of the groups with the best ones."""
    groups = np.split(np.arange(len(scores)), c.get("n_group") or 1)
    best = [np.sort(scores[group])[-SUMMED.get(family, 1) :].sum() for group in groups]
    near = np.concatenate([groups[n] for n in np.argsort(best)[-(c.get("topk_group") or 1) :]])
    return near[np.argsort(scores[near])[-c["num_experts_per_tok"] :]]


def weights(
    family: str, c: dict[str, Any], logits: np.ndarray, scores: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    over = logits[chosen] if family in OF_CHOSEN else logits
    found = scores[chosen] if family in SIGMOID else np.exp(logits[chosen]) / np.exp(over).sum()
    if NORMED.get(family, lambda c: c.get("norm_topk_prob"))(c):
        found = found / found.sum()
    return found * c.get("routed_scaling_factor", 1.0)


def of_expert(m: Any, places: dict[str, str], expert: int) -> dict[str, np.ndarray]:
    """The matrices [output, input] and biases of one expert, as its family has them in files."""
    at = places["expert"].format(expert)
    if m.family == "gpt_oss":  # all in one, transposed, and each gate has its up beside it
        both, down = m.read(at, "gate_up_proj")[expert].T, m.read(at, "down_proj")[expert].T
        bias = m.read(at, "gate_up_proj_bias")[expert]
        found = {"gate": both[::2], "up": both[1::2], "down": down, "gate_bias": bias[::2], "up_bias": bias[1::2]}
        return found | {"down_bias": m.read(at, "down_proj_bias")[expert]}
    if m.family == "granitemoe":
        gate, up = np.split(m.read(f"{at}.input_linear")[expert], 2)
        return {"gate": gate, "up": up, "down": m.read(f"{at}.output_linear")[expert]}
    return {part: m.read(f"{at}.{places[part]}") for part in ("gate", "up", "down")}


def through(m: Any, matrices: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """One token through one expert."""
    gate, up = (matrices[part] @ x + matrices.get(f"{part}_bias", 0) for part in ("gate", "up"))
    if m.family == "gpt_oss":  # `GptOssExperts`
        limit = m.c.get("swiglu_limit", 7.0)
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        inside = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
    else:
        inside = gate / (1 + np.exp(-gate)) * up
    return matrices["down"] @ inside + matrices.get("down_bias", 0)


def shared(m: Any, at: str, x: np.ndarray) -> np.ndarray:
    """The expert that every token goes to."""
    gate, up = m.linear(f"{at}.gate_proj", x), m.linear(f"{at}.up_proj", x)
    inside = m.tap("shared_act", m.tap("shared_gate", gate) / (1 + np.exp(-gate)) * m.tap("shared_up", up))
    out = m.tap("shared_out", m.linear(f"{at}.down_proj", inside))
    if m.has(f"{at}_gate"):  # `Qwen2MoeSparseMoeBlock`
        out = out / (1 + np.exp(-m.tap("shared_weight", m.linear(f"{at}_gate", x))))
    return out


def sink(m: Any, head: int) -> float:
    """What a head's own score adds to the sum that probabilities are divided by (gpt-oss, 2025)."""
    return math.exp(m.read("self_attn", "sinks")[head]) if m.has("self_attn", "sinks") else 0.0
